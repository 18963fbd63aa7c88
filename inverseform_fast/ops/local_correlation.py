"""local_correlation: its implementations by backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from .backend import Op, kernel_op, runs_on_cpu


@kernel_op
def _local_correlation(first: Tensor, second: Tensor, reach: int, groups: int) -> Tensor:
    if runs_on_cpu(first):
        return torch.ops.inverseform_fast.local_correlation_cpu(first, second, reach, groups)
    from ..kernels import local_correlation as kernel

    return kernel.local_correlation(first, second, reach, groups)


@_local_correlation.register_fake
def _(first: Tensor, second: Tensor, reach: int, groups: int) -> Tensor:
    return first.new_empty(first.shape[0], groups * (2 * reach + 1) ** 2, *first.shape[2:])


@kernel_op
def _local_correlation_backward(
    grad: Tensor, first: Tensor, second: Tensor, reach: int, groups: int, of_first: bool, of_second: bool
) -> tuple[Tensor, Tensor]:
    if runs_on_cpu(first):
        return torch.ops.inverseform_fast.local_correlation_backward_cpu(
            grad, first, second, reach, groups, of_first, of_second
        )
    from ..kernels import local_correlation as kernel

    return kernel.local_correlation_backward(grad, first, second, reach, groups, of_first, of_second)


@_local_correlation_backward.register_fake
def _(
    grad: Tensor, first: Tensor, second: Tensor, reach: int, groups: int, of_first: bool, of_second: bool
) -> tuple[Tensor, Tensor]:
    return first.new_empty(first.shape if of_first else (0,)), second.new_empty(second.shape if of_second else (0,))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, second, *ctx.options = inputs
    ctx.save_for_backward(first, second)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:2]
    gradients = _local_correlation_backward(grad, *ctx.saved_tensors, *ctx.options, *wanted)
    return *(gradient if want else None for gradient, want in zip(gradients, wanted, strict=True)), None, None


_local_correlation.register_autograd(_backward, setup_context=_save)

local_correlation = Op(reference=reference.local_correlation, cpu=_local_correlation, triton=_local_correlation)
