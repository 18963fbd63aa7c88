"""soft_boundary_map, plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .boundary_map import half_disk, neighbours
from .segmentation_loss import upsample

LOGIT_EPS = 1e-6  # of a probability whose logit is taken


def soft_boundary_map(
    logits: Tensor, size: Sequence[int] | None = None, radius: int = 2, as_logits: bool = False
) -> Tensor:
    """See :func:`inverseform_fast.functional.soft_boundary_map`."""
    log_probability = upsample(logits, size).log_softmax(1)
    root = (log_probability / 2).exp()
    height, width = root.shape[-2:]
    log_agreement = torch.zeros_like(root[:, :1])
    for offset in half_disk(radius, height, width):
        here, there = neighbours(height, width, offset)
        log_same = (root[here] * root[there]).sum(1, keepdim=True).clamp(min=torch.finfo(root.dtype).tiny).log()
        # Rounding can lift the sum of a flat area above 1: no probability exceeds that, but the gradient must not stop.
        log_same = log_same - log_same.detach().clamp(min=0)
        log_agreement[here] += log_same
        log_agreement[there] += log_same
    probability = -log_agreement.expm1()
    return probability.logit(eps=LOGIT_EPS) if as_logits else probability
