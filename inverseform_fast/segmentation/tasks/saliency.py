"""The saliency task predicts how likely a pixel belongs to something that draws the eye."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn

from ..config import TrainConfig
from ..metrics import SaliencyMetrics
from .base import Headline
from .binary import BalancedBCE, BinaryTask


@dataclass(frozen=True, kw_only=True)
class SaliencyTask(BinaryTask):
    """Predicts how salient a pixel is. The target is (H, W) of 0, 1 (salient) and ``void``.

    The loss is the binary cross-entropy, balanced in each batch. The metrics are the IoU and the F-score, each at its
    best threshold.
    """

    name: str = "saliency"

    def loss(self, config: TrainConfig) -> nn.Module:
        return BalancedBCE(self, balance=None)

    def metrics(self) -> SaliencyMetrics:
        return SaliencyMetrics(self.void)

    def headlines(self) -> dict[str, Headline]:
        percent = partial(Headline, scale=100, digits=1)
        return {"miou": percent("mIoU"), "maxf": percent("maxF")}
