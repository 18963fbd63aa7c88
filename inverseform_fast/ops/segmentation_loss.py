"""segmentation_loss: its implementations by backend."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..kernels.layout import empty_gradient, layout
from .backend import Op, differentiate_losses, kernel_op, runs_on_cpu


@kernel_op
def _segmentation_loss(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None, ignore_index: int, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, sum of weights, and the gradient of their product: backward only scales it."""
    if runs_on_cpu(logits):
        options = (class_weights, ignore_index, with_gradient)
        loss, weight, gradient = torch.ops.inverseform_fast.segmentation_loss_cpu(logits, labels, *options)
        return loss, weight, gradient.contiguous(memory_format=layout(logits))
    from ..kernels import segmentation_loss as kernel

    return kernel.segmentation_loss(logits, labels, class_weights, ignore_index, with_gradient)


@_segmentation_loss.register_fake
def _(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None, ignore_index: int, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    loss, weight = (logits.new_empty((), dtype=torch.float32) for _ in range(2))
    return loss, weight, empty_gradient(logits, 1 if with_gradient else 0)


@kernel_op
def _segmentation_loss_backward(grad: Tensor, gradient: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    # Into the final dtype at once: one pass over the gradient.
    return torch.mul(gradient, grad / weight, out=torch.empty_like(gradient, dtype=dtype))


@_segmentation_loss_backward.register_fake
def _(grad: Tensor, gradient: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(gradient, dtype=dtype)


differentiate_losses(_segmentation_loss, _segmentation_loss_backward)


def _fused(logits: Tensor, labels: Tensor, class_weights: Tensor | None, ignore_index: int) -> Tensor:
    if class_weights is not None and class_weights.requires_grad:
        return reference.segmentation_loss(
            logits, labels, class_weights, ignore_index
        )  # kernels make no gradient of them
    with_gradient = logits.requires_grad and torch.is_grad_enabled()
    return _segmentation_loss(logits, labels, class_weights, ignore_index, with_gradient)[0]


segmentation_loss = Op(reference=reference.segmentation_loss, cpu=_fused, triton=_fused)
