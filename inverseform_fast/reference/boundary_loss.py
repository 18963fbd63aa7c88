"""boundary_loss, plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .boundary_map import boundary_map
from .segmentation_loss import upsample


def boundary_loss(
    boundary_logits: Tensor, labels: Tensor, radius: int = 2, ignore_index: int = 255, counts: Tensor | None = None
) -> Tensor:
    """See :func:`inverseform_fast.functional.boundary_loss`."""
    target = boundary_map(labels, radius, ignore_index)
    positive, negative = target == 1, target == 0
    logits = torch.where(positive | negative, upsample(boundary_logits, labels.shape[-2:])[:, 0], 0)
    loss = -F.logsigmoid(torch.where(positive, logits, -logits))  # unlike torch's BCE, it takes infinite logits
    positives, negatives = (positive.sum(), negative.sum()) if counts is None else counts
    positives, negatives = positives.to(loss.dtype), negatives.to(loss.dtype)
    total = (positives + negatives).clamp(min=1)
    # The weights are divided first, because a sum of losses may be too large.
    weight = torch.where(positive, negatives, torch.where(negative, positives, 0)) / total / total
    return torch.where(weight > 0, weight * loss, 0).sum()
