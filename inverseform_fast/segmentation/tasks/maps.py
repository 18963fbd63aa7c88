"""What tasks whose maps hold numbers share: how predictions are checked, resized and averaged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checks import check_maps
from .base import Task
from .counted import CountedLoss, divided


def checked(
    name: str, channels: int, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Returns prediction (N, channels, h, w) and target (N, H, W), or (N, channels, H, W), of the task ``name``.

    Raises:
        TypeError: the prediction is of no floating-point dtype.
        ValueError: a shape is wrong.
    """
    prediction, target = predictions[name], targets[name]
    check_maps(prediction, f"prediction of {name}", channels)
    leading = (len(prediction),) if channels == 1 else (len(prediction), channels)
    if target.shape[:-2] != leading or target.ndim != len(leading) + 2:
        raise ValueError(f"target of {name} must have shape {(*leading, 'H', 'W')}, got {tuple(target.shape)}")
    return prediction, target


def resized(maps: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """Resizes maps (N, C, h, w) bilinearly (``align_corners=False``) to ``size`` (H, W), in float32."""
    return F.interpolate(maps.float(), size=tuple(size), mode="bilinear", align_corners=False)


class MeanError(CountedLoss):
    """Averages ``|predicted - target|`` over the numbers of a task's target that are not void; 0 if there are none."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.name, self.channels, self.void = task.name, task.channels, task.void

    @abstractmethod
    def predicted(self, prediction: Tensor, size: torch.Size) -> Tensor:
        """Turns a prediction (N, channels, h, w) into maps of the target's shape; ``size`` is its (H, W)."""

    def own_counts(self, targets: Mapping[str, Tensor], step: int) -> tuple[Tensor]:
        return ((targets[self.name] != self.void).sum(),)

    def terms(
        self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor], step: int, *counts: Tensor
    ) -> dict[str, Tensor]:
        prediction, target = checked(self.name, self.channels, predictions, targets)
        error = self.predicted(prediction, target.shape[-2:]) - target
        (valid,) = counts
        return {"total": divided(torch.where(target != self.void, error, 0).abs().sum(), valid)}
