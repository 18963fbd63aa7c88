"""The depth task predicts how far away the surface that a pixel shows is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..metrics import DepthMetrics
from .base import RGB, Headline, Kind, Task
from .maps import MeanError, resized

_NEAREST, _FARTHEST = 0.5, 100.0  # of the pictures' colours, which are even in the logarithm


@dataclass(frozen=True, kw_only=True)
class DepthTask(Task):
    """Predicts depth. The target is (H, W) in metres or another unit, ``void`` where there is none.

    The loss is the L1 distance, mean over valid pixels. The metrics are the RMSE and that of the logarithm.
    """

    kind: ClassVar[Kind] = "depth"

    name: str = "depth"
    void: float = 0.0

    @property
    def channels(self) -> int:
        return 1

    def loss(self, config: TrainConfig) -> nn.Module:
        return DepthLoss(self)

    def decode(self, prediction: Tensor, size: tuple[int, int]) -> Tensor:
        """Upsamples depth (N, 1, h, w) bilinearly to ``size``; returns it as (N, H, W) float32."""
        return resized(prediction, size)[:, 0]

    def metrics(self) -> DepthMetrics:
        return DepthMetrics(self.void)

    def draw(self, values: Tensor) -> Tensor:
        """Draws near things bright and distant ones dark; void is black."""
        picture = _colors(values.clamp(min=_NEAREST))
        return picture.masked_fill((values == self.void)[..., None], 0)

    def legend(self) -> Iterable[tuple[str, RGB]]:
        for depth in (1, 3, 10, 30, 100):
            red, green, blue = _colors(torch.tensor(float(depth))).tolist()
            yield f"depth {depth}", (red, green, blue)

    def headlines(self) -> dict[str, Headline]:
        return {"rmse": Headline("RMSE"), "log_rmse": Headline("RMSE of the logarithm")}


def _colors(depth: Tensor) -> Tensor:
    """Returns the RGB colours (..., 3) uint8 of positive depth."""
    from matplotlib import colormaps  # only pictures need it

    nearness = 1 - torch.log(depth / _NEAREST) / math.log(_FARTHEST / _NEAREST)
    table = torch.from_numpy(colormaps["viridis"](range(256), bytes=True)[:, :3])
    return table[(255 * nearness).clamp(0, 255).round().long()]


class DepthLoss(MeanError):
    """Computes the L1 distance of depth, as :class:`DepthTask` says."""

    def predicted(self, prediction: Tensor, size: torch.Size) -> Tensor:
        return resized(prediction, size)[:, 0]
