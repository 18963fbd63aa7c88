"""dice_loss, plain PyTorch, and the sums over pixels that it is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from .boundary_map import is_valid
from .segmentation_loss import upsample


def dice_sums(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """See :func:`inverseform_fast.functional.dice_sums`."""
    return _sums(logits, labels, ignore_index).detach().double()


def _sums(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    valid = is_valid(labels, ignore_index)[:, None]
    upsampled = torch.where(valid, upsample(logits, labels.shape[-2:]), 0)  # void counts for nothing, even if NaN
    probability = torch.where(valid, upsampled.softmax(1), 0)
    target = torch.where(valid, labels[:, None], 0).long()
    true = torch.zeros_like(probability, dtype=torch.bool).scatter(1, target, valid)
    both = torch.where(true, probability, 0).sum((0, 2, 3))
    return torch.stack((both, probability.sum((0, 2, 3)), true.sum((0, 2, 3))))


def dice_loss(logits: Tensor, labels: Tensor, ignore_index: int = 255, sums: Tensor | None = None) -> Tensor:
    """See :func:`inverseform_fast.functional.dice_loss`."""
    own = _sums(logits, labels, ignore_index)
    both, predicted, pixels = own if sums is None else sums.to(own.dtype) + (own - own.detach())
    present = pixels > 0
    loss = 1 - 2 * both / (predicted + pixels).clamp(min=1)  # no class that is present has a smaller sum
    return torch.where(present, loss, 0).sum() / present.sum().clamp(min=1)
