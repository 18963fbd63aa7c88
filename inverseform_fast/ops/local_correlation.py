"""local_correlation: its ops, their gradients, and the choice of an implementation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import reference
from .backend import Op
from .library import backward_op, differentiate, kernel_op


@kernel_op
def _local_correlation(
    first: Tensor,  # [N, C, h, w]
    second: Tensor,  # [N, C, h, w]
    reach: int,
    groups: int,
) -> Tensor:  # [N, groups * (2 reach + 1)^2, h, w]
    return first.new_empty(first.shape[0], groups * (2 * reach + 1) ** 2, *first.shape[2:])


@backward_op
def _local_correlation_backward(
    grad: Tensor,  # [N, groups * (2 reach + 1)^2, h, w]
    first: Tensor,  # [N, C, h, w]
    second: Tensor,  # [N, C, h, w]
    reach: int,
    groups: int,
    wants_first: bool,
    wants_second: bool,
) -> tuple[Tensor, Tensor]:  # [N, C, h, w] twice
    """Gradients of both maps, empty where not wanted."""
    return first.new_empty(first.shape if wants_first else (0,)), second.new_empty(
        second.shape if wants_second else (0,)
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, second, *ctx.options = inputs
    ctx.save_for_backward(first, second)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:2]
    gradients = _local_correlation_backward(grad, *ctx.saved_tensors, *ctx.options, *wanted)
    return *(gradient if want else None for gradient, want in zip(gradients, wanted, strict=True)), None, None


differentiate(_local_correlation, _backward, _save)

local_correlation = Op(reference.local_correlation, cpu=_local_correlation, triton=_local_correlation)
