"""channels_first: maps whose channels lie side by side in memory are copied to planes, and their gradients back.

The losses' kernels take one class after the other, so in such maps neighbouring threads would read numbers that lie a
pixel's channels apart. Both ways are the transposition of a matrix for each image. A program takes a tile of it: it
reads along one axis, turns the tile in shared memory and writes along the other. So it moves whole sectors.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .memory import plane_strides

PIXELS, CHANNELS, WARPS = 128, 32, 4  # of a program


def channels_first(
    maps: Tensor,  # [N, C, h, w]
) -> Tensor:
    """``[N, C, h, w]``, contiguous."""
    maps = maps.contiguous(memory_format=torch.channels_last)
    planes = torch.empty_like(maps, memory_format=torch.contiguous_format)
    plane_strides(maps)  # must fit in 32 bits
    _launch(maps, planes, maps.shape[2] * maps.shape[3], maps.shape[1], PIXELS, CHANNELS)
    return planes


def channels_first_backward(
    grad: Tensor,  # [N, C, h, w]
) -> Tensor:
    """``[N, C, h, w]`` in the memory format ``channels_last``."""
    grad = grad.contiguous()
    result = torch.empty_like(grad, memory_format=torch.channels_last)
    plane_strides(result)
    _launch(grad, result, grad.shape[1], grad.shape[2] * grad.shape[3], CHANNELS, PIXELS)
    return result


def _launch(maps: Tensor, result: Tensor, rows: int, columns: int, tile_rows: int, tile_columns: int) -> None:
    blocks_y, blocks_x = triton.cdiv(rows, tile_rows), triton.cdiv(columns, tile_columns)
    if maps.numel():
        _transpose[(maps.shape[0] * blocks_y * blocks_x,)](
            maps, result, rows, columns, blocks_y, blocks_x, ROWS=tile_rows, COLUMNS=tile_columns, num_warps=WARPS
        )


@triton.jit(do_not_specialize=("blocks_y", "blocks_x"))  # rows and columns of 16 are moved 128 bits at a time
def _transpose(
    matrices,  # [N, rows, columns]
    result,  # [N, columns, rows]
    rows, columns, blocks_y, blocks_x, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    first = (program // (blocks_y * blocks_x)).to(tl.int64) * rows * columns
    row = program // blocks_x % blocks_y * ROWS + tl.arange(0, ROWS)[:, None]
    column = program % blocks_x * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows) & (column < columns)
    values = tl.load(matrices + first + (row * columns + column), inside)
    tl.store(result + first + (column * rows + row), values, inside)
