"""Bilinear resizing inside kernels (``align_corners=False``), and its adjoint without atomics.

Maps of ``size`` pixels are read as if resized to ``full`` pixels; positions are exact ratios of integers. *Cell* i lies
between the pixels i and i + 1; the cells -1 and size - 1 hang over the edges. All full pixels of a cell are mixed from
the same four corners. A thread owns a cell and holds KY x KX of its full pixels in registers at a time; these are one
*part* of the cell. The adjoint adds what the four cells around a pixel send to it, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .memory import check_edges

MAX_K = 4
LOWEST = tl.constexpr(-1.5e38)  # stands for minus infinity; differences of such numbers are finite
SCALE = tl.constexpr(2.0**-16)  # of summed losses: the sum of a program's pixels stays finite where each loss is
CELLS = tl.constexpr(16)  # A program has 16 x 16 cells, one per thread; all but its first row and column own a pixel.


class Cells(NamedTuple):
    """How a resize from ``size`` to ``full`` is cut into programs; pairs are (rows, columns)."""

    blocks: tuple[int, int]  # of 16 x 16 cells
    parts_yx: tuple[int, int]  # into which the full pixels of a cell are cut
    k: tuple[int, int]  # full pixels of a part
    resized: bool
    warps: int = CELLS.value**2 // 32

    @property
    def parts(self) -> int:
        return self.parts_yx[0] * self.parts_yx[1]

    @property
    def programs(self) -> int:
        """How many programs an image takes."""
        return self.blocks[0] * self.blocks[1] * self.parts


def cut_into_cells(size: Sequence[int], full: Sequence[int]) -> Cells:
    check_edges(*size, *full)
    size, full = tuple(size), tuple(full)
    most_y, most_x = (triton.cdiv(f, s) for f, s in zip(full, size, strict=True))  # full pixels of a cell
    # There are few values of k, so that most sizes share a compiled kernel; a thread may then hold fewer than k pixels.
    k = 1 if size == full else min(triton.next_power_of_2(max(2, most_y, most_x)), MAX_K)
    rows, columns = (triton.cdiv(s, CELLS.value - 1) for s in size)
    return Cells((rows, columns), (triton.cdiv(most_y, k), triton.cdiv(most_x, k)), (k, k), size != full)


def sum_parts(
    gradient: Tensor,  # [parts * N, C, h, w]
    parts: int,
) -> Tensor:
    """``[N, C, h, w]``: the sums of what the parts of the cells sent to each pixel."""
    return gradient if parts == 1 else gradient.unflatten(0, (parts, -1)).sum(0)


@triton.jit
def taps(position, size, full):
    """The two pixels between which a full position lies, and the share of the second."""
    ahead = (2 * position + 1) * size + full  # It is moved on by one pixel, so that it is not negative.
    before = (ahead * (0.5 / full)).to(tl.int32)
    rest = ahead - before * (2 * full)
    # Rounding may have missed by one; a division of integers would cost three times as much.
    miss = (rest >= 2 * full).to(tl.int32) - (rest < 0).to(tl.int32)
    before += miss - 1
    share = (rest - miss * (2 * full)) * (0.5 / full)
    return tl.maximum(before, 0), tl.minimum(before + 1, size - 1), share


@triton.jit
def lerp(first, second, share):
    return first + share * (second - first)


@triton.jit
def cells(block_y, block_x):
    """Rows and columns ``[CELLS * CELLS]`` of a program's cells."""
    thread = tl.arange(0, CELLS * CELLS)
    return block_y * (CELLS - 1) - 1 + thread // CELLS, block_x * (CELLS - 1) - 1 + thread % CELLS


@triton.jit
def part_of_image(blocks_y, blocks_x, parts_y, parts_x):
    """This program's image (int64), part (row, column) and block (row, column)."""
    program = tl.program_id(0)
    block, parts = program % (blocks_y * blocks_x), program // (blocks_y * blocks_x)
    n, part = parts // (parts_y * parts_x), parts % (parts_y * parts_x)
    return n.to(tl.int64), part // parts_x, part % parts_x, block // blocks_x, block % blocks_x


@triton.jit
def owns_pixel(cell_y, cell_x, height, width):
    """Whether this program adds up the gradient of the pixel ``(cell_y, cell_x)``, its cell's top left corner."""
    thread = tl.arange(0, CELLS * CELLS)
    return (thread >= CELLS) & (thread % CELLS > 0) & (cell_y < height) & (cell_x < width)


@triton.jit
def owns_full_pixels(cell_y, cell_x):
    """Whether this program, and no other that has the same cell, counts the cell's full pixels."""
    thread = tl.arange(0, CELLS * CELLS)
    return ((thread >= CELLS) | (cell_y < 0)) & ((thread % CELLS > 0) | (cell_x < 0))


@triton.jit
def full_positions(cell, part, size, full, K: tl.constexpr):
    """The cells' full pixels ``[K, cells]``: positions, the second corner's share in each, and which of them exist."""
    start = first_of_cell(cell, size, full)
    end = tl.minimum(first_of_cell(cell + 1, size, full), full)
    position = start[None, :] + part * K + tl.arange(0, K)[:, None]
    return position, share_of_second(position, cell[None, :], size, full), position < end[None, :]


@triton.jit
def share_of_second(position, cell, size, full):
    """The second corner's share in a full position of a cell."""
    share = ((2 * position + 1) * size - full - 2 * full * cell) * (0.5 / full)
    return tl.where(cell < 0, 1.0, tl.where(cell >= size - 1, 0.0, share))


@triton.jit
def first_of_cell(cell, size, full):
    """The first full pixel of a cell."""
    return tl.where(cell < 0, 0, ((2 * cell + 1) * full + size - 1) // (2 * size))


@triton.jit
def corner_offsets(cell_y, cell_x, height, width, stride_y, stride_x):
    """Offsets ``[cells]`` of the cells' corners: top left, top right, bottom left, bottom right."""
    top = tl.minimum(tl.maximum(cell_y, 0), height - 1) * stride_y
    bottom = tl.minimum(cell_y + 1, height - 1) * stride_y
    left = tl.minimum(tl.maximum(cell_x, 0), width - 1) * stride_x
    right = tl.minimum(cell_x + 1, width - 1) * stride_x
    return top + left, top + right, bottom + left, bottom + right


@triton.jit
def upsample(plane, corners, share_y, share_x, RESIZED: tl.constexpr):
    """Full pixels ``[KY, KX, cells]`` of the map at ``plane``, from the offsets of the cells' corners."""
    if not RESIZED:
        return load(plane + corners[0])[None, None, :]
    # Along x first, as everywhere: differences of equal logits must be 0.
    top = lerp(load(plane + corners[0])[None, :], load(plane + corners[1])[None, :], share_x)
    bottom = lerp(load(plane + corners[2])[None, :], load(plane + corners[3])[None, :], share_x)
    return lerp(top[None, :, :], bottom[None, :, :], share_y[:, None, :])


@triton.jit
def load(pointers):
    """Pixels in float32; minus infinity, of which a difference would be NaN, becomes LOWEST."""
    value = tl.load(pointers).to(tl.float32)
    return tl.where(value < LOWEST, LOWEST, value)


# Upsampling is linear: a full pixel is (1 - sy) (1 - sx) top_left + (1 - sy) sx top_right + sy (1 - sx) bottom_left
# + sy sx bottom_right. So its gradient, times these four weights, goes back to the corners; each cell adds up what its
# full pixels send to each corner, first along x, then along y. A pixel is the top left corner of its own cell, the top
# right one of the cell to the left, and a bottom corner of the two above: it adds the four sums.
@triton.jit
def upsample_backward(grad, share_y, share_x, RESIZED: tl.constexpr):
    """Turn the gradient ``[KY, KX, cells]`` of full pixels into that ``[cells]`` of the pixels that the cells own."""
    if not RESIZED:
        return tl.sum(tl.sum(grad, 0), 0)
    right = tl.sum(grad * share_x[None, :, :], 1)
    left = tl.sum(grad, 1) - right
    bottom_left, bottom_right = tl.sum(left * share_y, 0), tl.sum(right * share_y, 0)
    top_left, top_right = tl.sum(left, 0) - bottom_left, tl.sum(right, 0) - bottom_right
    thread = tl.arange(0, CELLS * CELLS)
    to_the_left, above = tl.maximum(thread - 1, 0), tl.maximum(thread - CELLS, 0)
    top = top_left + tl.gather(top_right, to_the_left, 0)
    bottom = bottom_left + tl.gather(bottom_right, to_the_left, 0)
    return top + tl.gather(bottom, above, 0)


@triton.jit
def total(values):
    """Sum of all ``[KY, KX, cells]`` values."""
    return tl.sum(tl.sum(tl.sum(values, 0), 0), 0)


@triton.jit
def column_total(sums, column, columns, programs):
    """Sum in float64 of one column of ``sums [programs, columns]``, which all programs of another launch wrote."""
    BLOCK: tl.constexpr = 1024
    added = tl.zeros([BLOCK], tl.float64)
    for first in range(0, programs, BLOCK):
        row = first + tl.arange(0, BLOCK)
        added += tl.load(sums + row * columns + column, row < programs, 0)
    return tl.sum(added, 0)
