"""What tasks whose maps hold numbers share: how predictions are checked, resized and averaged."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checks import check_maps


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


def mean_error(prediction: Tensor, target: Tensor, void: float) -> Tensor:
    """Averages ``|prediction - target|`` over the numbers of the target that are not void; 0 if there are none."""
    valid = target != void
    error = torch.where(valid, prediction - target, 0).abs()
    return error.sum() / valid.sum().clamp(min=1)
