"""boundary_f1_loss, plain PyTorch, and the sums over pixels that it is made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .boundary_map import is_valid
from .segmentation_loss import upsample


def boundary_f1_sums(
    logits: Tensor, labels: Tensor, radius: int = 2, ignore_index: int = 255, tolerance: int = 2
) -> Tensor:
    """See :func:`inverseform_fast.functional.boundary_f1_sums`."""
    return _sums(logits, labels, radius, ignore_index, tolerance).detach().double()


def _sums(logits: Tensor, labels: Tensor, radius: int, ignore_index: int, tolerance: int) -> Tensor:
    valid = is_valid(labels, ignore_index)[:, None]
    upsampled = torch.where(valid, upsample(logits, labels.shape[-2:]), 0)  # void counts for nothing, even if NaN
    probability = upsampled.softmax(1)
    known = _largest((~valid).to(probability.dtype), radius) == 0
    predicted = torch.where(known, probability + _largest(-probability, radius), 0)
    target = torch.where(valid, labels[:, None], 0).long()
    ids = target.to(probability.dtype)
    edge = known & (_largest(ids, radius) != -_largest(-ids, radius))
    true = torch.zeros_like(probability).scatter(1, target, edge.to(probability.dtype))
    near = _largest(true, tolerance)
    return torch.stack([maps.sum((0, 2, 3)) for maps in (predicted, predicted * near, predicted * true, true)])


def _largest(maps: Tensor, reach: int) -> Tensor:
    """The largest value within ``reach`` pixels in each direction; of equal ones, the first row's first is taken."""
    size = 2 * min(reach, max(maps.shape[-2:])) + 1  # no window is needed that is larger than the image
    return F.max_pool2d(maps, size, 1, size // 2)


def boundary_f1_loss(
    logits: Tensor,
    labels: Tensor,
    radius: int = 2,
    ignore_index: int = 255,
    tolerance: int = 2,
    sums: Tensor | None = None,
) -> Tensor:
    """See :func:`inverseform_fast.functional.boundary_f1_loss`."""
    own = _sums(logits, labels, radius, ignore_index, tolerance)
    predicted, precise, recalled, true = own if sums is None else sums.to(own.dtype) + (own - own.detach())
    total = precise * true + recalled * predicted
    f1 = 2 * precise * recalled / torch.where(total == 0, 1, total)
    counts = (true > 0) | predicted.isnan()  # NaN must not pass in silence
    return torch.where(counts, 1 - f1, 0).sum() / counts.sum().clamp(min=1)
