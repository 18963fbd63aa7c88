"""boundary_loss: its ops, their gradients, and the choice of an implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .backend import Op
from .library import EXTENSION, define, differentiate_loss, kernel, kernel_op, without_derivative


@kernel_op
def _boundary_loss(
    boundary_logits: Tensor,  # [N, 1, h, w]
    labels: Tensor,  # [N, H, W]
    radius: int,
    ignore_index: int,
    counts: Tensor | None,  # [2], float64
    wants_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # [], [2], [2, N, 1, h, w]
    """The loss, the weights of positive and negative pixels, and the gradients of both losses, which backward mixes."""
    shape = (2, *boundary_logits.shape) if wants_grad else (0,)
    shapes: tuple[tuple[int, ...], ...] = ((), (2,), shape)
    loss, weights, grad_logits = (boundary_logits.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return loss, weights, grad_logits


@kernel(_boundary_loss, "CPU")
def _(
    boundary_logits: Tensor, labels: Tensor, radius: int, ignore_index: int, counts: Tensor | None, wants_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    target = EXTENSION.boundary_map_cpu.default(labels, radius, ignore_index)
    return EXTENSION.boundary_loss_cpu.default(boundary_logits, target, counts, wants_grad)


@without_derivative
@define
def _boundary_loss_backward(
    grad: Tensor,  # []
    grad_logits: Tensor,  # [2, N, 1, h, w]
    weights: Tensor,  # [2]
    dtype: torch.dtype,
) -> Tensor:  # [N, 1, h, w]
    return grad_logits.new_empty(grad_logits.shape[1:], dtype=dtype)


@kernel(_boundary_loss_backward, "CompositeExplicitAutograd")
def _(grad: Tensor, grad_logits: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    # This is no matrix product, because autocast would round one.
    return ((grad * weights).view(2, 1, 1, 1, 1) * grad_logits).sum(0).to(dtype)


differentiate_loss(_boundary_loss, _boundary_loss_backward)


def _loss(
    boundary_logits: Tensor, labels: Tensor, radius: int, ignore_index: int, counts: Tensor | None = None
) -> Tensor:
    wants_grad = boundary_logits.requires_grad and torch.is_grad_enabled()
    return _boundary_loss(boundary_logits, labels, radius, ignore_index, counts, wants_grad)[0]


boundary_loss = Op(reference.boundary_loss, cpu=_loss, triton=_loss)
