"""boundary_loss, plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .boundary_map import boundary_map
from .segmentation_loss import upsample


def boundary_loss(boundary_logits: Tensor, labels: Tensor, radius: int = 2, ignore_index: int = 255) -> Tensor:
    """See :func:`inverseform_fast.functional.boundary_loss`."""
    logits = upsample(boundary_logits, labels.shape[-2:])[:, 0]
    target = boundary_map(labels, radius, ignore_index)
    positive, negative = target == 1, target == 0
    loss = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
    positives, negatives = positive.sum().to(loss.dtype), negative.sum().to(loss.dtype)
    total = (positives + negatives).clamp(min=1)
    weighted = negatives * torch.where(positive, loss, 0).sum() + positives * torch.where(negative, loss, 0).sum()
    return weighted / total.square()
