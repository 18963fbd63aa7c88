"""align: its ops, their gradients, and the choice of an implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..reference.align import COEFFICIENTS, align_with
from .backend import Op
from .library import backward_op, differentiate, kernel_op
from .local_correlation import local_correlation


@kernel_op
def _align(
    predicted: Tensor,  # [N, 1, tile, tile]
    target: Tensor,  # [N, 1, tile, tile]
    weights: list[Tensor],  # of reference.align.weight_shapes
) -> tuple[Tensor, Tensor]:  # [N, 8], [N, 8, 8]
    """The coefficients, and the matrix of the linear equations that they solve."""
    n = predicted.shape[0]
    return (
        predicted.new_empty(n, COEFFICIENTS, dtype=torch.float32),
        predicted.new_empty(n, COEFFICIENTS, COEFFICIENTS, dtype=torch.float32),
    )


@backward_op
def _align_backward(
    grad: Tensor,  # [N, 8]
    predicted: Tensor,  # [N, 1, tile, tile]
    target: Tensor,  # [N, 1, tile, tile]
    weights: list[Tensor],
    found: Tensor,  # [N, 8]
    matrix: Tensor,  # [N, 8, 8]
    wants_predicted: bool,
    wants_target: bool,
) -> tuple[Tensor, Tensor]:  # [N, 1, tile, tile] twice
    """Gradients of both tiles, empty where not wanted; ``found`` and ``matrix`` are what the forward returned."""
    return (
        predicted.new_empty(predicted.shape if wants_predicted else (0,)),
        target.new_empty(target.shape if wants_target else (0,)),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    predicted, target, weights = inputs
    ctx.save_for_backward(predicted, target, *weights, *output)
    ctx.set_materialize_grads(False)  # the matrix has no gradient: make no zeros for it


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    predicted, target, *weights, found, matrix = ctx.saved_tensors
    wants_predicted, wants_target, _ = ctx.needs_input_grad
    grad_predicted, grad_target = _align_backward(
        grad, predicted, target, weights, found, matrix, wants_predicted, wants_target
    )
    return grad_predicted if wants_predicted else None, grad_target if wants_target else None, [None] * len(weights)


differentiate(_align, _backward, _save)


def _step(predicted: Tensor, target: Tensor, weights: Sequence[Tensor]) -> Tensor:
    if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):  # kernels compute none for them
        return align_with(local_correlation, predicted, target, weights)
    return _align(predicted, target, list(weights))[0]


align = Op(reference.align, cpu=_step, triton=_step)
