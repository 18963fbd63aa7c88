"""The parts task predicts the part of a human body for every pixel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from ..config import TrainConfig
from ..metrics import RegionMetrics
from .base import RGB
from .semantic import SemanticLoss, SemanticTask

PARTS = ("background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg")
_COLORS = ((0, 0, 60), (230, 70, 60), (240, 180, 50), (90, 190, 90), (30, 120, 70), (80, 160, 230), (150, 90, 200))


@dataclass(frozen=True, kw_only=True)
class PartsTask(SemanticTask):
    """Predicts one of 7 classes for every pixel: a part of a human body, or the background.

    The target is (H, W) class ids, ``void`` where there is none; an image that shows no person is all void, so that it
    counts for nothing. The loss is the cross-entropy, mean over valid pixels. The mIoU is of one confusion matrix over
    all valid pixels, and a class that is in neither truth nor prediction counts 0, as in the public code.
    """

    note: ClassVar[str] = "Of parts, one in neither truth nor prediction counts 0."

    name: str = "parts"
    classes: tuple[str, ...] = PARTS
    colors: tuple[RGB, ...] = field(default=_COLORS, compare=False)

    def loss(self, config: TrainConfig) -> nn.Module:
        return SemanticLoss(dataclasses.replace(config, loss="ce"), self.name, self.void)

    def aligner(self, config: TrainConfig) -> None:
        return None

    def metrics(self) -> RegionMetrics:
        return RegionMetrics(self.channels, self.void, self.classes, absent=0.0)

    def draw_errors(self, image: Tensor, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {}

    def legend(self) -> Iterable[tuple[str, RGB]]:
        return zip(self.classes, self.colors, strict=True)
