"""align: its implementations by backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .backend import Op, kernel_op, runs_on_cpu
from .local_correlation import local_correlation


@kernel_op
def _align(predicted: Tensor, target: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The coefficients, and the matrix (N, 8, 8) of the equations that they solve."""
    if runs_on_cpu(predicted):
        return torch.ops.inverseform_fast.align_cpu(predicted, target, weights)
    from ..kernels import align as kernel

    return kernel.align(predicted, target, weights)


@_align.register_fake
def _(predicted: Tensor, target: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    n = predicted.shape[0]
    return (
        predicted.new_empty(n, 8, dtype=torch.float32),
        predicted.new_empty(n, 8, 8, dtype=torch.float32),
    )


@kernel_op
def _align_backward(
    grad: Tensor, predicted: Tensor, target: Tensor, weights: list[Tensor], found: Tensor, matrix: Tensor,
    of_predicted: bool, of_target: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if runs_on_cpu(predicted):
        return torch.ops.inverseform_fast.align_backward_cpu(
            grad, predicted, target, weights, found, matrix, of_predicted, of_target
        )
    from ..kernels import align as kernel

    return kernel.align_backward(grad, predicted, target, weights, found, matrix, of_predicted, of_target)


@_align_backward.register_fake
def _(
    grad: Tensor, predicted: Tensor, target: Tensor, weights: list[Tensor], found: Tensor, matrix: Tensor,
    of_predicted: bool, of_target: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return (
        predicted.new_empty(predicted.shape if of_predicted else (0,)),
        target.new_empty(target.shape if of_target else (0,)),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    predicted, target, weights = inputs
    ctx.save_for_backward(predicted, target, *weights, *output)
    ctx.set_materialize_grads(False)  # of zeros, for what only backward reads


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    predicted, target, *weights, found, matrix = ctx.saved_tensors
    of_predicted, of_target, _ = ctx.needs_input_grad
    grad_predicted, grad_target = _align_backward(
        grad, predicted, target, weights, found, matrix, of_predicted, of_target
    )
    return grad_predicted if of_predicted else None, grad_target if of_target else None, [None] * len(weights)


_align.register_autograd(_backward, setup_context=_save)


def _fused(predicted: Tensor, target: Tensor, weights: Sequence[Tensor]) -> Tensor:
    if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):  # the kernels have none for them
        return reference.align(predicted, target, weights, local_correlation)
    return _align(predicted, target, list(weights))[0]


align = Op(reference=reference.align, cpu=_fused, triton=_fused)
