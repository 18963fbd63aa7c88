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
    return _stretch(_stretch(maps, 3, size[1]), 2, size[0])


def _stretch(maps: Tensor, dim: int, count: int) -> Tensor:
    """``maps`` with ``count`` positions along ``dim``; each lies between two of the old ones."""
    size = maps.shape[dim]
    if size == count:
        return maps
    place = (2 * torch.arange(count, device=maps.device) + 1) * size - count  # in parts of a pixel, 2 * count of them
    place = place.clamp(0, 2 * count * (size - 1))
    before, rest = place // (2 * count), place % (2 * count)
    on_a_pixel = rest == 0  # which counts as half of itself, twice, because infinity times 0 would be NaN
    after = torch.where(on_a_pixel, before, before + 1)
    share = torch.where(on_a_pixel, 0.5, rest.double() / (2 * count)).to(maps.dtype)
    share = share.view(-1, *[1] * (maps.ndim - 1 - dim))
    return torch.addcmul(maps.index_select(dim, before) * (1 - share), maps.index_select(dim, after), share)


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
