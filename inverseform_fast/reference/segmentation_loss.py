"""segmentation_loss, plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .boundary_map import is_valid


def upsample(maps: Tensor, size: Sequence[int] | None) -> Tensor:
    """``maps (N, C, h, w)`` in float32 or wider, resized (bilinear, ``align_corners=False``) if ``size`` is another."""
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    if size is None or list(maps.shape[-2:]) == list(size):
        return maps
    return F.interpolate(maps, size=list(size), mode="bilinear", align_corners=False)


def segmentation_loss(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, ignore_index: int = 255
) -> Tensor:
    """See :func:`inverseform_fast.functional.segmentation_loss`."""
    log_probability = upsample(logits, labels.shape[-2:]).log_softmax(1)
    valid = is_valid(labels, ignore_index)
    target = torch.where(valid, labels, 0).long()[:, None]
    weight = valid.to(log_probability.dtype)
    if class_weights is not None:
        weight = weight * class_weights.to(log_probability)[target[:, 0]]
    loss = -log_probability.gather(1, target)[:, 0]
    # A plain weight * loss would be NaN where a void pixel of weight 0 has an infinite loss.
    total = torch.where(weight > 0, weight * loss, 0).sum()
    return total / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
