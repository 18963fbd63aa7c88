"""segmentation_loss: its ops, their gradients, and the choice of an implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..kernels.layout import empty_gradient, layout
from .backend import Op
from .library import EXTENSION, define, differentiate_loss, kernel, kernel_op, without_derivative


@kernel_op
def _segmentation_loss(
    logits: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    class_weights: Tensor | None,  # [C]
    ignore_index: int,
    wants_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # [], [], [N, C, h, w]
    """The loss, the sum of weights, and the gradient of their product, which backward only scales."""
    loss, weight = (logits.new_empty((), dtype=torch.float32) for _ in range(2))
    return loss, weight, empty_gradient(logits, 1 if wants_grad else 0)


@kernel(_segmentation_loss, "CPU")
def _(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None, ignore_index: int, wants_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    options = (class_weights, ignore_index, wants_grad)
    loss, weight, grad_logits = EXTENSION.segmentation_loss_cpu.default(logits, labels, *options)
    return loss, weight, grad_logits.contiguous(memory_format=layout(logits))


@without_derivative
@define
def _segmentation_loss_backward(
    grad: Tensor,  # []
    grad_logits: Tensor,  # [N, C, h, w]
    weight: Tensor,  # []
    dtype: torch.dtype,
) -> Tensor:  # [N, C, h, w]
    return torch.empty_like(grad_logits, dtype=dtype)


@kernel(_segmentation_loss_backward, "CompositeExplicitAutograd")
def _(grad: Tensor, grad_logits: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    # Writing the final dtype at once takes a single pass over the gradient.
    return torch.mul(grad_logits, grad / weight, out=torch.empty_like(grad_logits, dtype=dtype))


differentiate_loss(_segmentation_loss, _segmentation_loss_backward)


def _loss(logits: Tensor, labels: Tensor, class_weights: Tensor | None, ignore_index: int) -> Tensor:
    if class_weights is not None and class_weights.requires_grad:  # kernels compute none for them
        return reference.segmentation_loss(logits, labels, class_weights, ignore_index)
    wants_grad = logits.requires_grad and torch.is_grad_enabled()
    return _segmentation_loss(logits, labels, class_weights, ignore_index, wants_grad)[0]


segmentation_loss = Op(reference.segmentation_loss, cpu=_loss, triton=_loss)
