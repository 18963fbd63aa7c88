"""Tiles of full pixels with a margin, for kernels that compare a pixel's probabilities with its neighbors'.

Values of a tile are ``[EDGE * EDGE]``, row by row, with the margin. They are shifted through shared memory, so no
full-resolution tensor of C channels is stored. A backward needs such a tensor, and stores it for one band of rows at a
time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import triton
import triton.language as tl
from torch import Tensor

from .elementary import exp
from .memory import VARYING, gather
from .resize import CELLS, LOWEST, Cells, cells, full_positions, lerp, load, owns_pixel, taps, upsample_backward

EDGE = tl.constexpr(32)  # of a tile with its margin
WARPS = 8
BANDS = 8  # of rows, in the backward of a tall map


def tiles(pixels: int, margin: int) -> int:
    """How many tiles cover a row or column of pixels."""
    return triton.cdiv(pixels, EDGE.value - 2 * margin)


def band_of(height: int) -> int:
    """The rows of a band."""
    return min(max(2 * EDGE.value, triton.cdiv(height, BANDS)), height)


def bands(height: int) -> Iterator[tuple[int, int]]:
    """The first row of each band, and how many rows it has."""
    return ((first, min(band_of(height), height - first)) for first in range(0, height, band_of(height)))


def add_band(
    grad_full: Tensor,  # [N, C, band, W]: of the upsampled logits of the rows from ``first`` on
    grad: Tensor,  # [N, C, h, w]: of the logits
    full: Sequence[int],  # H, W
    first: int,
    rows: int,
    cut: Cells,
) -> None:
    """Add to the gradient what a band of rows sends to it."""
    n, channels, height, _ = grad.shape
    first_block, blocks_y = blocks_of_band(first, rows, height, full[0])
    _upsample_band_backward[(n * channels * blocks_y * cut.blocks[1],)](
        grad_full, grad, *grad.shape[1:], *full, first, rows,
        first_block, blocks_y, cut.blocks[1], *cut.parts_yx,
        *grad_full.stride()[:3], *grad.stride(),
        KY=cut.k[0], KX=cut.k[1], RESIZED=cut.resized, num_warps=cut.warps,
    )  # fmt: skip


def blocks_of_band(first: int, rows: int, height: int, full_height: int) -> tuple[int, int]:
    """The first of the blocks of cells that hold the full rows from ``first`` on, and how many blocks these are."""
    ends = first, first + rows - 1
    first_cell, last_cell = (((2 * y + 1) * height - full_height) // (2 * full_height) for y in ends)
    own = CELLS.value - 1  # rows of pixels that a block owns; its cells begin one row before them
    first_block, last_block = max(first_cell // own, 0), min((last_cell + 1) // own, (height - 1) // own)
    return first_block, last_block - first_block + 1


@triton.jit(do_not_specialize=("first", "first_block", *VARYING))  # the former differ from band to band
def _upsample_band_backward(
    grad_full,  # [N, C, rows, W]: of the upsampled logits of the rows from ``first`` on
    grad,  # [N, C, h, w]: of the logits
    channels, height, width, full_height, full_width, first, rows, first_block, blocks_y, blocks_x,
    parts_y, parts_x, full_n, full_c, full_y, grad_n, grad_c, grad_y, grad_x,
    KY: tl.constexpr, KX: tl.constexpr, RESIZED: tl.constexpr,
):  # fmt: skip
    """Add to the gradient what this band of rows sends to it; the blocks are those that the band touches."""
    program = tl.program_id(0)
    cell_y, cell_x = cells(first_block + program // blocks_x % blocks_y, program % blocks_x)
    c = (program // (blocks_y * blocks_x) % channels).to(tl.int64)
    n = (program // (blocks_y * blocks_x) // channels).to(tl.int64)
    grad_full += n * full_n + c * full_c
    received = tl.zeros(cell_y.shape, tl.float32)
    for part_y in range(parts_y):
        y, share_y, inside_y = full_positions(cell_y, part_y, height, full_height, KY)
        inside_y = inside_y & (y >= first) & (y < first + rows)
        for part_x in range(parts_x):
            x, share_x, inside_x = full_positions(cell_x, part_x, width, full_width, KX)
            offsets = ((y - first) * full_y)[:, None, :] + x[None, :, :]
            sent = gather(grad_full, offsets, inside_y[:, None, :] & inside_x[None, :, :])
            received += upsample_backward(sent, share_y, share_x, RESIZED)
    owned = owns_pixel(cell_y, cell_x, height, width)
    grad += n * grad_n + c * grad_c + (cell_y * grad_y + cell_x * grad_x)
    tl.store(grad, tl.load(grad, owned, 0) + received, owned)


@triton.jit
def tile_of_image(first, blocks_y, blocks_x, MARGIN: tl.constexpr):
    """This program's image (int64), and the pixels ``[EDGE * EDGE]`` of its tile and margin."""
    program = tl.program_id(0)
    place = tl.arange(0, EDGE * EDGE)
    y = first + program // blocks_x % blocks_y * (EDGE - 2 * MARGIN) - MARGIN + place // EDGE
    x = program % blocks_x * (EDGE - 2 * MARGIN) - MARGIN + place % EDGE
    return (program // (blocks_y * blocks_x)).to(tl.int64), y, x


@triton.jit
def in_tile(MARGIN: tl.constexpr):
    """Which pixels belong to the tile, not to its margin."""
    row, column = tl.arange(0, EDGE * EDGE) // EDGE, tl.arange(0, EDGE * EDGE) % EDGE
    return (row >= MARGIN) & (row < EDGE - MARGIN) & (column >= MARGIN) & (column < EDGE - MARGIN)


@triton.jit
def shift(values, OFFSET: tl.constexpr):
    """``values`` at ``OFFSET`` places behind each pixel; those beyond the tile mean nothing."""
    place = tl.arange(0, EDGE * EDGE) + OFFSET
    return tl.gather(values, tl.minimum(tl.maximum(place, 0), EDGE * EDGE - 1), 0)


@triton.jit
def corners_of(y, x, height, width, full_height, full_width, stride_y, stride_x):
    """Offsets of the four pixels between which a full pixel lies, and the shares of the lower and of the right ones."""
    y0, y1, share_y = taps(tl.minimum(tl.maximum(y, 0), full_height - 1), height, full_height)
    x0, x1, share_x = taps(tl.minimum(tl.maximum(x, 0), full_width - 1), width, full_width)
    y0, y1, x0, x1 = y0 * stride_y, y1 * stride_y, x0 * stride_x, x1 * stride_x
    return (y0 + x0, y0 + x1, y1 + x0, y1 + x1), share_y, share_x


@triton.jit
def logit_at(plane, corners, share_y, share_x, RESIZED: tl.constexpr):
    """The upsampled logits of one class."""
    top_left = load(plane + corners[0])
    if not RESIZED:
        return top_left
    top = lerp(top_left, load(plane + corners[1]), share_x)
    bottom = lerp(load(plane + corners[2]), load(plane + corners[3]), share_x)
    return lerp(top, bottom, share_y)


@triton.jit
def largest_and_sum(logits, logits_c, channels, corners, share_y, share_x, RESIZED: tl.constexpr):
    """The largest logit of each pixel, and ``sum_c e^(logit_c - largest)``."""
    channel = logits
    largest = tl.full(share_y.shape, float("-inf"), tl.float32)
    for _ in range(channels):
        largest = tl.maximum(largest, logit_at(channel, corners, share_y, share_x, RESIZED))
        channel += logits_c
    largest = tl.where(largest == LOWEST, float("nan"), largest)  # all classes are impossible
    channel = logits
    total = tl.zeros(share_y.shape, tl.float32)
    for _ in range(channels):
        total += exp(logit_at(channel, corners, share_y, share_x, RESIZED) - largest)
        channel += logits_c
    return largest, total
