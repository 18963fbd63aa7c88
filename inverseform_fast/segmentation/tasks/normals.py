"""The normals task predicts which way the surface that a pixel shows is turned."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import TrainConfig
from ..metrics import NormalMetrics
from ..metrics.geometry import WITHIN
from .base import Headline, Kind, Task
from .maps import MeanError, resized


@dataclass(frozen=True, kw_only=True)
class NormalsTask(Task):
    """Predicts surface normals. The target is (3, H, W) unit vectors, all three numbers ``void`` where there is none.

    x points to the right, y up and z towards the camera. The loss is the L1 distance of the prediction, divided by its
    norm, from the target; the mean is over valid numbers. The metrics are statistics of the angle between them.
    """

    kind: ClassVar[Kind] = "normals"
    note: ClassVar[str] = "Angles between normals are in degrees."

    name: str = "normals"

    @property
    def channels(self) -> int:
        return 3

    def loss(self, config: TrainConfig) -> nn.Module:
        return NormalLoss(self)

    def decode(self, prediction: Tensor, size: tuple[int, int]) -> Tensor:
        """Upsamples vectors (N, 3, h, w) bilinearly to ``size``; returns unit vectors (N, 3, H, W) float32."""
        return F.normalize(resized(prediction, size), dim=1)

    def metrics(self) -> NormalMetrics:
        return NormalMetrics(self.void)

    def draw(self, values: Tensor) -> Tensor:
        """Draws -1 to 1 as 0 to 255: x red, y green, z blue; void is black."""
        picture = (127.5 * (values.clamp(-1, 1) + 1)).round().to(torch.uint8)
        return picture.masked_fill((values == self.void).all(0), 0).permute(1, 2, 0)

    def headlines(self) -> dict[str, Headline]:
        degrees, percent = partial(Headline, digits=2), partial(Headline, scale=100, digits=1)
        shown = {"mean": degrees("mean angle"), "median": degrees("median angle"), "rmse": degrees("RMSE of the angle")}
        return shown | {f"within_{limit:g}": percent(f"within {limit:g} degrees") for limit in WITHIN}


class NormalLoss(MeanError):
    """Computes the L1 distance of normals, as :class:`NormalsTask` says."""

    def predicted(self, prediction: Tensor, size: torch.Size) -> Tensor:
        prediction = resized(prediction, size)
        return prediction / (prediction.norm(dim=1, keepdim=True) + 1e-12)
