"""align: a step of the network in 6 launches: features of the tiles, their comparison, the solution of the equations.

The backward computes the intermediate values again, in 4 launches, and then takes 6 on the way back. The weights are
frozen, so only the tiles get gradients. Every value is gathered, and nothing depends on a tile's place in the batch.
Both orders of a pair run the same arithmetic, so identical tiles give exactly 0 and swapped ones exactly the opposite.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..reference.align import COEFFICIENTS, FEATURE_WEIGHTS
from .align_correlation import correlation_backward, correlation_layer
from .align_equations import equations_backward, solve_equations
from .align_features import features, features_backward
from .memory import check_edges


def align(
    predicted: Tensor,  # [N, 1, edge, edge]
    target: Tensor,  # [N, 1, edge, edge]
    weights: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """The coefficients ``[N, 8]``, and the matrix ``[N, 8, 8]`` of the equations that they solve."""
    check_edges(predicted.shape[-1])
    if not predicted.numel():
        coefficients = predicted.new_empty(predicted.shape[0], COEFFICIENTS, dtype=torch.float32)
        return coefficients, coefficients.new_empty(predicted.shape[0], COEFFICIENTS, COEFFICIENTS)
    predicted, target, *weights = (x.contiguous() for x in (predicted, target, *weights))
    feature_weights, measure_weights = weights[:FEATURE_WEIGHTS], weights[FEATURE_WEIGHTS:]
    kept = features(predicted, target, feature_weights, for_backward=False)
    hidden, _ = correlation_layer(kept.normal, measure_weights, for_backward=False)
    return solve_equations(hidden, measure_weights)


def align_backward(
    grad: Tensor,  # [N, 8]
    predicted: Tensor,  # [N, 1, edge, edge]
    target: Tensor,  # [N, 1, edge, edge]
    weights: Sequence[Tensor],
    coefficients: Tensor,  # [N, 8]
    matrix: Tensor,  # [N, 8, 8]
    wants_predicted: bool,
    wants_target: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of the tiles; one that is not wanted is empty."""
    grad_predicted, grad_target = (
        torch.empty(tiles.shape if wanted else (0,), dtype=tiles.dtype, device=tiles.device)
        for tiles, wanted in ((predicted, wants_predicted), (target, wants_target))
    )
    if not predicted.numel() or not (wants_predicted or wants_target):
        return grad_predicted, grad_target
    predicted, target, *weights = (x.contiguous() for x in (predicted, target, *weights))
    grad, coefficients, matrix = grad.contiguous(), coefficients.contiguous(), matrix.contiguous()
    feature_weights, measure_weights = weights[:FEATURE_WEIGHTS], weights[FEATURE_WEIGHTS:]
    kept = features(predicted, target, feature_weights, for_backward=True)
    hidden, linear = correlation_layer(kept.normal, measure_weights, for_backward=True)
    n = predicted.shape[0]
    start, count = 0 if wants_predicted else n, n * (wants_predicted + wants_target)
    grad_channels = equations_backward(grad, coefficients, matrix, hidden, linear, measure_weights)
    grad_normal = correlation_backward(grad_channels, kept.normal, start, count)
    features_backward(grad_normal, kept, feature_weights, start, grad_predicted, grad_target)
    return grad_predicted, grad_target
