"""boundary_loss: its implementations by backend."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .backend import Op, differentiate_losses, kernel_op, runs_on_cpu


@kernel_op
def _boundary_loss(
    boundary_logits: Tensor, labels: Tensor, radius: int, ignore_index: int, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, weights of positive and negative pixels, and the gradients of either's losses: backward only mixes them."""
    if runs_on_cpu(boundary_logits):
        target = torch.ops.inverseform_fast.boundary_map_cpu(labels, radius, ignore_index)
        return torch.ops.inverseform_fast.boundary_loss_cpu(boundary_logits, target, with_gradient)
    from ..kernels import boundary_loss as kernel

    return kernel.boundary_loss(boundary_logits, labels, radius, ignore_index, with_gradient)


@_boundary_loss.register_fake
def _(
    boundary_logits: Tensor, labels: Tensor, radius: int, ignore_index: int, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (2, *boundary_logits.shape) if with_gradient else (0,)
    shapes: tuple[tuple[int, ...], ...] = ((), (2,), shape)
    loss, weights, gradient = (boundary_logits.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return loss, weights, gradient


@kernel_op
def _boundary_loss_backward(grad: Tensor, gradient: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    # Not a product of matrices, which autocast would round.
    return ((grad * weights).view(2, 1, 1, 1, 1) * gradient).sum(0).to(dtype)


@_boundary_loss_backward.register_fake
def _(grad: Tensor, gradient: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    return gradient.new_empty(gradient.shape[1:], dtype=dtype)


differentiate_losses(_boundary_loss, _boundary_loss_backward)


def _fused(boundary_logits: Tensor, labels: Tensor, radius: int, ignore_index: int) -> Tensor:
    with_gradient = boundary_logits.requires_grad and torch.is_grad_enabled()
    return _boundary_loss(boundary_logits, labels, radius, ignore_index, with_gradient)[0]


boundary_loss = Op(reference=reference.boundary_loss, cpu=_fused, triton=_fused)
