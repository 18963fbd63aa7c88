"""extract_tiles: its ops, their gradients, and the choice of an implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..kernels.layout import empty_gradient
from .backend import Op
from .library import backward_op, differentiate, kernel_op


@kernel_op
def _extract_tiles(
    predicted: Tensor,  # [N, 1, h, w]
    target: Tensor,  # [N, 1, H, W]
    size: list[int],
    tile: int,
    sigmoid: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # [tiles, 1, tile, tile] three times
    """The predicted and the true tiles, and which of their pixels are valid."""
    shape = (predicted.shape[0] * (size[0] // tile) * (size[1] // tile), 1, tile, tile)
    dtypes = (torch.float32, torch.float32, torch.uint8)
    predicted_tiles, true_tiles, valid = (predicted.new_empty(shape, dtype=dtype) for dtype in dtypes)
    return predicted_tiles, true_tiles, valid


@backward_op
def _extract_tiles_backward(
    grad: Tensor,  # [tiles, 1, tile, tile]
    valid: Tensor,  # [tiles, 1, tile, tile]
    predicted: Tensor,  # [N, 1, h, w]
    size: list[int],
    tile: int,
    sigmoid: bool,
) -> Tensor:  # [N, 1, h, w]
    return empty_gradient(predicted).to(predicted.dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    predicted, _, *ctx.options = inputs
    ctx.save_for_backward(output[2], predicted)
    ctx.set_materialize_grads(False)  # true tiles and valid pixels have no gradients: make no zeros for them


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return _extract_tiles_backward(grad, *ctx.saved_tensors, *ctx.options), None, None, None, None


differentiate(_extract_tiles, _backward, _save)


def _extract(
    predicted: Tensor, target: Tensor, size: Sequence[int], tile: int, activation: str | None
) -> tuple[Tensor, Tensor]:
    predicted_tiles, true_tiles, _ = _extract_tiles(predicted, target, list(size), tile, activation == "sigmoid")
    return predicted_tiles, true_tiles.detach()  # else the network would compute a gradient of it, too


extract_tiles = Op(reference.extract_tiles, cpu=_extract, triton=_extract)
