"""dice_loss: its ops, their gradients, and the choice of an implementation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..kernels.layout import empty_gradient, layout
from .backend import Op
from .library import EXTENSION, backward_op, differentiate, kernel, kernel_op


@kernel_op
def _dice_loss(
    logits: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    ignore_index: int,
    sums: Tensor | None,  # [3, C], float64
) -> tuple[Tensor, Tensor]:  # [], [2, C]
    """The loss, and its derivatives by the probability of a class at a pixel that is not of the class, and at one that
    is."""
    return logits.new_empty((), dtype=torch.float32), logits.new_empty(2, logits.shape[1], dtype=torch.float32)


@kernel_op
def _dice_sums(
    logits: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    ignore_index: int,
) -> Tensor:  # [3, C]
    return logits.new_empty(3, logits.shape[1], dtype=torch.float64)


def _constant(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.mark_non_differentiable(output)


differentiate(_dice_sums, lambda ctx, grad: (None, None, None), _constant)


@backward_op
def _dice_loss_backward(
    logits: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    slopes: Tensor,  # [2, C], times the gradient of the loss
    ignore_index: int,
) -> Tensor:  # [N, C, h, w]
    return empty_gradient(logits).to(logits.dtype)


@kernel(_dice_loss_backward, "CPU")
def _(logits: Tensor, labels: Tensor, slopes: Tensor, ignore_index: int) -> Tensor:
    gradient = EXTENSION.dice_loss_backward_cpu.default(logits, labels, slopes, ignore_index)
    return gradient.to(logits.dtype, memory_format=layout(logits))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, labels, ctx.ignore_index, _ = inputs
    ctx.save_for_backward(logits, labels, output[1])
    ctx.set_materialize_grads(False)  # the slopes have no gradient: make no zeros for it


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    logits, labels, slopes = ctx.saved_tensors
    return _dice_loss_backward(logits, labels, slopes * grad, ctx.ignore_index), None, None, None


differentiate(_dice_loss, _backward, _save)


def _loss(logits: Tensor, labels: Tensor, ignore_index: int, sums: Tensor | None = None) -> Tensor:
    return _dice_loss(logits, labels, ignore_index, sums)[0]


dice_loss = Op(reference.dice_loss, cpu=_loss, triton=_loss)
dice_sums = Op(reference.dice_sums, cpu=_dice_sums, triton=_dice_sums)
