"""soft_boundary_map: its implementations by backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..kernels.layout import empty_gradient, layout
from .backend import Op, kernel_op, runs_on_cpu


@kernel_op
def _soft_boundary_map(logits: Tensor, size: list[int], radius: int) -> tuple[Tensor, Tensor]:
    """The map, and the logarithm of its distance from 1."""
    if runs_on_cpu(logits):
        return torch.ops.inverseform_fast.soft_boundary_map_cpu(logits, size, radius)
    from ..kernels import soft_boundary_map as kernel

    return kernel.soft_boundary_map(logits, size, radius)


@_soft_boundary_map.register_fake
def _(logits: Tensor, size: list[int], radius: int) -> tuple[Tensor, Tensor]:
    result = logits.new_empty(logits.shape[0], 1, *size, dtype=torch.float32)
    return result, torch.empty_like(result)


@kernel_op
def _soft_boundary_map_backward(grad: Tensor, logarithm: Tensor, logits: Tensor, radius: int) -> Tensor:
    if runs_on_cpu(logits):
        gradient = torch.ops.inverseform_fast.soft_boundary_map_backward_cpu(grad, logarithm, logits, radius)
        return gradient.to(logits.dtype, memory_format=layout(logits))
    from ..kernels import soft_boundary_map as kernel

    return kernel.soft_boundary_map_backward(grad, logarithm, logits, radius)


@_soft_boundary_map_backward.register_fake
def _(grad: Tensor, logarithm: Tensor, logits: Tensor, radius: int) -> Tensor:
    return empty_gradient(logits).to(logits.dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, _, ctx.radius = inputs
    ctx.save_for_backward(output[1], logits)
    ctx.set_materialize_grads(False)  # of zeros, for what only backward reads


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return _soft_boundary_map_backward(grad, *ctx.saved_tensors, ctx.radius), None, None


_soft_boundary_map.register_autograd(_backward, setup_context=_save)


def _fused(logits: Tensor, size: Sequence[int] | None, radius: int) -> Tensor:
    return _soft_boundary_map(logits, size or logits.shape[-2:], radius)[0]


def _triton(logits: Tensor, size: Sequence[int] | None, radius: int) -> Tensor:
    from ..kernels.soft_boundary_map import LARGEST_RADIUS

    return (reference.soft_boundary_map if radius > LARGEST_RADIUS else _fused)(logits, size, radius)


soft_boundary_map = Op(reference=reference.soft_boundary_map, cpu=_fused, triton=_triton)
