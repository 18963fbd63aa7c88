"""boundary_f1_loss: its ops, their gradients, and the choice of an implementation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..kernels.layout import empty_gradient, layout
from .backend import Op
from .library import EXTENSION, backward_op, differentiate, kernel, kernel_op


@kernel_op
def _boundary_f1_loss(
    logits: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    radius: int,
    ignore_index: int,
    tolerance: int,
    sums: Tensor | None,  # [4, C], float64
) -> tuple[Tensor, Tensor]:  # [], [3, C]
    """The loss, and its derivatives by the first three of the sums."""
    return logits.new_empty((), dtype=torch.float32), logits.new_empty(3, logits.shape[1], dtype=torch.float32)


@kernel_op
def _boundary_f1_sums(
    logits: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    radius: int,
    ignore_index: int,
    tolerance: int,
) -> Tensor:  # [4, C]
    return logits.new_empty(4, logits.shape[1], dtype=torch.float64)


def _constant(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.mark_non_differentiable(output)


differentiate(_boundary_f1_sums, lambda ctx, grad: (None,) * 5, _constant)


@backward_op
def _boundary_f1_loss_backward(
    logits: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    slopes: Tensor,  # [3, C], times the gradient of the loss
    radius: int,
    ignore_index: int,
    tolerance: int,
) -> Tensor:  # [N, C, h, w]
    return empty_gradient(logits).to(logits.dtype)


@kernel(_boundary_f1_loss_backward, "CPU")
def _(logits: Tensor, labels: Tensor, slopes: Tensor, radius: int, ignore_index: int, tolerance: int) -> Tensor:
    gradient = EXTENSION.boundary_f1_loss_backward_cpu.default(logits, labels, slopes, radius, ignore_index, tolerance)
    return gradient.to(logits.dtype, memory_format=layout(logits))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, labels, *ctx.options, _ = inputs
    ctx.save_for_backward(logits, labels, output[1])
    ctx.set_materialize_grads(False)  # the slopes have no gradient: make no zeros for it


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    logits, labels, slopes = ctx.saved_tensors
    return _boundary_f1_loss_backward(logits, labels, slopes * grad, *ctx.options), *(None,) * 5


differentiate(_boundary_f1_loss, _backward, _save)


def _loss(
    logits: Tensor, labels: Tensor, radius: int, ignore_index: int, tolerance: int, sums: Tensor | None = None
) -> Tensor:
    return _boundary_f1_loss(logits, labels, radius, ignore_index, tolerance, sums)[0]


def _triton_loss(
    logits: Tensor, labels: Tensor, radius: int, ignore_index: int, tolerance: int, sums: Tensor | None = None
) -> Tensor:
    loss = _loss if _has_kernel(radius) else reference.boundary_f1_loss
    return loss(logits, labels, radius, ignore_index, tolerance, sums)


def _triton_sums(logits: Tensor, labels: Tensor, radius: int, ignore_index: int, tolerance: int) -> Tensor:
    sums = _boundary_f1_sums if _has_kernel(radius) else reference.boundary_f1_sums
    return sums(logits, labels, radius, ignore_index, tolerance)


def _has_kernel(radius: int) -> bool:
    from ..kernels.boundary_f1_loss import LARGEST_RADIUS

    return radius <= LARGEST_RADIUS


boundary_f1_loss = Op(reference.boundary_f1_loss, cpu=_loss, triton=_triton_loss)
boundary_f1_sums = Op(reference.boundary_f1_sums, cpu=_boundary_f1_sums, triton=_triton_sums)
