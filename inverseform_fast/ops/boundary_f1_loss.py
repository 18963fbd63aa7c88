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
) -> tuple[Tensor, Tensor]:  # [], [N, 3, C]
    """The loss, and its derivatives by the first three sums of each image and class."""
    n, classes, *_ = logits.shape
    return logits.new_empty((), dtype=torch.float32), logits.new_empty(n, 3, classes, dtype=torch.float32)


@backward_op
def _boundary_f1_loss_backward(
    logits: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    slopes: Tensor,  # [N, 3, C], times the gradient of the loss
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
    logits, labels, *ctx.options = inputs
    ctx.save_for_backward(logits, labels, output[1])
    ctx.set_materialize_grads(False)  # the slopes have no gradient: make no zeros for it


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    logits, labels, slopes = ctx.saved_tensors
    return _boundary_f1_loss_backward(logits, labels, slopes * grad, *ctx.options), *[None] * 4


differentiate(_boundary_f1_loss, _backward, _save)


def _loss(logits: Tensor, labels: Tensor, radius: int, ignore_index: int, tolerance: int) -> Tensor:
    return _boundary_f1_loss(logits, labels, radius, ignore_index, tolerance)[0]


def _triton(logits: Tensor, labels: Tensor, radius: int, ignore_index: int, tolerance: int) -> Tensor:
    from ..kernels.boundary_f1_loss import LARGEST_RADIUS

    loss = _loss if radius <= LARGEST_RADIUS else reference.boundary_f1_loss
    return loss(logits, labels, radius, ignore_index, tolerance)


boundary_f1_loss = Op(reference.boundary_f1_loss, cpu=_loss, triton=_triton)
