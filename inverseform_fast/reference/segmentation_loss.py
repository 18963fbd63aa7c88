"""segmentation_loss, plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .boundary_map import is_valid


def upsample(maps: Tensor, size: Sequence[int] | None) -> Tensor:
    """``maps (N, C, h, w)`` in float32 or wider, resized (bilinear, ``align_corners=False``) if ``size`` is another.

    In ``F.interpolate`` an infinite number counts as NaN where its weight is 0; here it does not count at all.
    """
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    if size is None:
        return maps
    return _stretch(_stretch(maps, 2, size[0]), 3, size[1])


def _stretch(maps: Tensor, dim: int, count: int) -> Tensor:
    """``maps`` with ``count`` positions along ``dim``; each lies between two of the old ones."""
    size = maps.shape[dim]
    if size == count:
        return maps
    place = (torch.arange(count, dtype=torch.float64, device=maps.device) + 0.5) * size / count - 0.5
    place = place.clamp(0, size - 1)
    before = place.long()
    share = (place - before).to(maps.dtype).view(-1, *[1] * (maps.ndim - 1 - dim))
    first, second = maps.index_select(dim, before), maps.index_select(dim, (before + 1).clamp(max=size - 1))
    return torch.where(share == 0, first, (1 - share) * first + share * second)


def segmentation_loss(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, ignore_index: int = 255
) -> Tensor:
    """See :func:`inverseform_fast.functional.segmentation_loss`."""
    upsampled = upsample(logits, labels.shape[-2:])
    valid = is_valid(labels, ignore_index)
    target = torch.where(valid, labels, 0).long()[:, None]
    weight = valid.to(upsampled.dtype)
    if class_weights is not None:
        weight = weight * class_weights.to(upsampled)[target[:, 0]]
    # A pixel of weight 0 counts for nothing, even if its logits are not finite.
    log_probability = torch.where(weight[:, None] > 0, upsampled, 0).log_softmax(1)
    loss = -log_probability.gather(1, target)[:, 0]
    share = weight / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)  # of the mean; a sum may be too large
    return (share * loss).sum()
