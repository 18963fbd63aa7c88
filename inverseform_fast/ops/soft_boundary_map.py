"""soft_boundary_map: its ops, their gradients, and the choice of an implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..kernels.layout import empty_gradient, layout
from ..reference.soft_boundary_map import LOGIT_EPS
from .backend import Op
from .library import EXTENSION, backward_op, define, differentiate, kernel, kernel_op


@kernel_op
def _soft_boundary_map(
    logits: Tensor,  # [N, C, h, w]
    size: list[int],  # H, W
    radius: int,
) -> tuple[Tensor, Tensor]:  # [N, 1, H, W] twice
    """The map, and the logarithm of 1 minus the map."""
    result = logits.new_empty(logits.shape[0], 1, *size, dtype=torch.float32)
    return result, torch.empty_like(result)


@backward_op
def _soft_boundary_map_backward(
    grad: Tensor,  # [N, 1, H, W]
    logarithm: Tensor,  # [N, 1, H, W]
    logits: Tensor,  # [N, C, h, w]
    radius: int,
) -> Tensor:  # [N, C, h, w]
    return empty_gradient(logits).to(logits.dtype)


@kernel(_soft_boundary_map_backward, "CPU")
def _(grad: Tensor, logarithm: Tensor, logits: Tensor, radius: int) -> Tensor:
    gradient = EXTENSION.soft_boundary_map_backward_cpu.default(grad, logarithm, logits, radius)
    return gradient.to(logits.dtype, memory_format=layout(logits))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, _, ctx.radius = inputs
    ctx.save_for_backward(output[1], logits)
    ctx.set_materialize_grads(False)  # the logarithm has no gradient: make no zeros for it


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    logarithm, logits = ctx.saved_tensors
    return _soft_boundary_map_backward(grad, logarithm, logits, ctx.radius), None, None


differentiate(_soft_boundary_map, _backward, _save)


@define
def _logit(
    probability: Tensor,  # [N, 1, H, W]
    eps: float,
) -> Tensor:  # [N, 1, H, W]
    """Its bits do not depend on the number of threads, as those of torch's do in builds without MKL."""
    return torch.empty_like(probability)


def _save_probability(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    probability, ctx.eps = inputs
    ctx.save_for_backward(probability)


def _logit_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return torch.ops.aten.logit_backward(grad, *ctx.saved_tensors, ctx.eps), None


differentiate(_logit, _logit_backward, _save_probability)


def _cpu(logits: Tensor, size: Sequence[int] | None, radius: int, as_logits: bool) -> Tensor:
    probability = _map(logits, size, radius)
    return _logit(probability, LOGIT_EPS) if as_logits else probability


def _triton(logits: Tensor, size: Sequence[int] | None, radius: int, as_logits: bool) -> Tensor:
    from ..kernels.soft_boundary_map import LARGEST_RADIUS

    if radius > LARGEST_RADIUS:
        return reference.soft_boundary_map(logits, size, radius, as_logits)
    probability = _map(logits, size, radius)
    return probability.logit(eps=LOGIT_EPS) if as_logits else probability


def _map(logits: Tensor, size: Sequence[int] | None, radius: int) -> Tensor:
    return _soft_boundary_map(logits, list(size or logits.shape[-2:]), radius)[0]


soft_boundary_map = Op(reference.soft_boundary_map, cpu=_cpu, triton=_triton)
