"""align: features of the tiles, their comparison, and the solution of the equations that it yields; 6 launches.

The backward makes the intermediate values again: 4 launches, then 6 on the way back. The weights are frozen: gradients
are of the tiles only. Every value is gathered, and nothing depends on a tile's place in the batch: the two orders of a
pair run the same arithmetic, so identical tiles give exactly 0 and swapped ones exactly the opposite.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .align_features import features, features_backward
from .align_measure import compare, measure_backward, solve
from .memory import check_edges

OF_FEATURES = 8  # weights


def align(predicted: Tensor, target: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """``(N, 1, edge, edge)`` twice to the coefficients ``(N, 8)`` and the matrix ``(N, 8, 8)`` of their equations."""
    check_edges(predicted.shape[-1])
    if not predicted.numel():
        found = predicted.new_empty(predicted.shape[0], 8, dtype=torch.float32)
        return found, predicted.new_empty(predicted.shape[0], 8, 8, dtype=torch.float32)
    predicted, target, *weights = (x.contiguous() for x in (predicted, target, *weights))
    kept = features(predicted, target, weights[:OF_FEATURES], for_backward=False)
    hidden, _ = compare(kept.normal, weights[OF_FEATURES:], for_backward=False)
    return solve(hidden, weights[OF_FEATURES:])


def align_backward(
    grad: Tensor, predicted: Tensor, target: Tensor, weights: Sequence[Tensor], found: Tensor, matrix: Tensor,
    of_predicted: bool, of_target: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of the tiles; empty where not asked for."""
    grad_predicted, grad_target = (
        torch.empty(tiles.shape if wanted else (0,), dtype=tiles.dtype, device=tiles.device)
        for tiles, wanted in ((predicted, of_predicted), (target, of_target))
    )
    if not predicted.numel() or not (of_predicted or of_target):
        return grad_predicted, grad_target
    predicted, target, *weights = (x.contiguous() for x in (predicted, target, *weights))
    grad, found, matrix = grad.contiguous(), found.contiguous(), matrix.contiguous()
    kept = features(predicted, target, weights[:OF_FEATURES], for_backward=True)
    hidden, slope = compare(kept.normal, weights[OF_FEATURES:], for_backward=True)
    n = predicted.shape[0]
    start, count = 0 if of_predicted else n, n * (of_predicted + of_target)
    of_normal = measure_backward(grad, found, matrix, kept.normal, hidden, slope, weights[OF_FEATURES:], start, count)
    features_backward(of_normal, kept, weights[:OF_FEATURES], start, grad_predicted, grad_target)
    return grad_predicted, grad_target
