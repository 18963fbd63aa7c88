"""extract_tiles: its implementations by backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..kernels.layout import empty_gradient
from .backend import Op, kernel_op, runs_on_cpu


def _probability(predicted: Tensor, sigmoid: bool) -> Tensor:
    return predicted.float().sigmoid() if sigmoid else predicted


@kernel_op
def _extract_tiles(
    predicted: Tensor, target: Tensor, size: list[int], tile: int, sigmoid: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted and true tiles, and which of their pixels are valid."""
    if runs_on_cpu(predicted):
        return torch.ops.inverseform_fast.extract_tiles_cpu(_probability(predicted, sigmoid), target, size, tile)
    from ..kernels import extract_tiles as kernel

    return kernel.extract_tiles(predicted, target, size, tile, sigmoid)


@_extract_tiles.register_fake
def _(predicted: Tensor, target: Tensor, size: list[int], tile: int, sigmoid: bool) -> tuple[Tensor, Tensor, Tensor]:
    shape = (predicted.shape[0] * (size[0] // tile) * (size[1] // tile), 1, tile, tile)
    dtypes = (torch.float32, torch.float32, torch.uint8)
    predicted_tiles, true_tiles, valid = (predicted.new_empty(shape, dtype=dtype) for dtype in dtypes)
    return predicted_tiles, true_tiles, valid


@kernel_op
def _extract_tiles_backward(
    grad: Tensor, valid: Tensor, predicted: Tensor, size: list[int], tile: int, sigmoid: bool
) -> Tensor:
    if runs_on_cpu(predicted):
        shape = predicted.shape
        gradient = torch.ops.inverseform_fast.extract_tiles_backward_cpu(grad, valid, shape, size, tile)
        if sigmoid:
            gradient = torch.ops.aten.sigmoid_backward(gradient, _probability(predicted, sigmoid))
        return gradient.to(predicted.dtype)
    from ..kernels import extract_tiles as kernel

    return kernel.extract_tiles_backward(grad, valid, predicted, size, tile, sigmoid)


@_extract_tiles_backward.register_fake
def _(grad: Tensor, valid: Tensor, predicted: Tensor, size: list[int], tile: int, sigmoid: bool) -> Tensor:
    return empty_gradient(predicted).to(predicted.dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    predicted, _, *ctx.options = inputs
    ctx.save_for_backward(output[2], predicted)
    ctx.set_materialize_grads(False)  # of zeros, for what only backward reads


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return _extract_tiles_backward(grad, *ctx.saved_tensors, *ctx.options), None, None, None, None


_extract_tiles.register_autograd(_backward, setup_context=_save)


def _fused(
    predicted: Tensor, target: Tensor, size: Sequence[int], tile: int, activation: str | None
) -> tuple[Tensor, Tensor]:
    predicted_tiles, true_tiles, _ = _extract_tiles(predicted, target, size, tile, activation == "sigmoid")
    return predicted_tiles, true_tiles.detach()  # or the network would compute the gradient of the truth, too


extract_tiles = Op(reference=reference.extract_tiles, cpu=_fused, triton=_fused)
