"""boundary_map: a single kernel reads the labels once and writes the map once.

A pixel is boundary if not all valid labels of its disk are the same. A disk is a few chords, one in each row that it
crosses. For the usual radii a thread slides down a column: in each row it finds the smallest and the largest label of
every chord's window, and a pixel compares those of its own chords. So a pixel costs 2 radius + 1 loads, not one for
each pixel of the disk.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .memory import VARYING, check_edges, gather, plane_strides

VOID = tl.constexpr(255)
LARGEST_WINDOW = 3  # Beyond this radius, code and registers grow too large.


def boundary_map(
    labels: Tensor,  # [N, H, W]
    radius: int,
    ignore_index: int,
    release: bool,
) -> Tensor:
    """The map ``[N, H, W]``, uint8, as the reference has it; only the low 32 bits of 64-bit labels are compared.

    Raises:
        ValueError: an edge is too long, or ``ignore_index`` does not fit in 32 bits.
    """
    n, height, width = labels.shape
    check_edges(height, width)
    if not -(2**31) <= ignore_index < 2**31:
        raise ValueError(f"ignore_index must fit in 32 bits for the Triton kernels, got {ignore_index}")
    result = torch.empty(labels.shape, dtype=torch.uint8, device=labels.device)
    slides = radius <= LARGEST_WINDOW and not release
    step = max(2 * radius, 4)
    rows, columns = (8 * step, 128) if slides else (4, 128)
    blocks_y, blocks_x = triton.cdiv(height, rows), triton.cdiv(width, columns)
    arguments = (labels, result, height, width, blocks_y, blocks_x, labels.stride(0), *plane_strides(labels))
    if n and slides:
        _boundary_map_sliding_window[(n * blocks_y * blocks_x,)](
            *arguments, ignore_index, RADIUS=radius, ROWS=rows, COLUMNS=columns, STEP=step, num_warps=4
        )
    elif n:
        _boundary_map_stencil[(n * blocks_y * blocks_x,)](
            *arguments, ignore_index, RADIUS=radius, RELEASE=release, ROWS=rows, COLUMNS=columns, num_warps=4
        )
    return result


@triton.jit(do_not_specialize=VARYING)
def _boundary_map_sliding_window(
    labels,  # [N, H, W]
    result,  # [N, H, W]
    height, width, blocks_y, blocks_x, labels_n, labels_y, labels_x, ignore_index,
    RADIUS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """The map for radii up to ``LARGEST_WINDOW``; a thread owns a column of ROWS pixels."""
    n, block_y, block_x = _block(blocks_y, blocks_x)
    first_y = block_y * ROWS
    x = block_x * COLUMNS + tl.arange(0, COLUMNS)
    labels += n * labels_n
    result += n * height * width
    around = ()  # the rows above the next ones, and below them while they are taken
    for i in tl.static_range(2 * RADIUS):
        around += (_chords(labels, first_y + i - RADIUS, x, height, width, labels_y, labels_x, ignore_index, RADIUS),)
    # Triton's coalescing pass would take a second for as many loads as unrolled rows have.
    for begin in range(first_y, first_y + ROWS, STEP):
        for i in tl.static_range(STEP):
            y = begin + i
            last = _chords(labels, y + RADIUS, x, height, width, labels_y, labels_x, ignore_index, RADIUS)
            around += (last,)
            near = _near(around, RADIUS)
            tl.store(result + y * width + x, near.to(tl.uint8), (x < width) & (y < height))
            around = _without_first(around)


@triton.jit
def _near(rows, RADIUS: tl.constexpr):
    """What the map says of the middle one of ``2 RADIUS + 1`` rows."""
    centre, lowest, highest = rows[RADIUS]
    low, high = lowest[RADIUS], highest[RADIUS]
    for dy in tl.static_range(1, RADIUS + 1):
        for other in tl.static_range(2):
            _, lowest, highest = rows[RADIUS + (2 * other - 1) * dy]
            low = tl.minimum(low, lowest[_half_chord(RADIUS, dy)])
            high = tl.maximum(high, highest[_half_chord(RADIUS, dy)])
    return tl.where(centre == 0, VOID, (high - low != 1).to(tl.int32))


@triton.jit
def _without_first(rows):
    result = ()
    for i in tl.static_range(1, len(rows)):
        result += (rows[i],)
    return result


@triton.jit
def _chords(labels, y, x, height, width, labels_y, labels_x, ignore_index, RADIUS: tl.constexpr):
    """The label, and the smallest and largest valid ones at most 0, 1, .. RADIUS columns away.

    A label is read as ``label - void``, unsigned, where void is 0 and a valid label is always larger. The smallest is
    taken of ``label - void - 1``, where void is the highest of all numbers. So both ignore void, and they differ by 1
    if all valid labels are the same.
    """
    # Clamping to the image moves a neighbour nearer, to a pixel that lies in the disk as well.
    row = labels + tl.minimum(tl.maximum(y, 0), height - 1) * labels_y
    centre = _load(row, x, width, labels_x, ignore_index)
    low, high = centre - 1, centre
    lowest, highest = (low,), (high,)
    for dx in tl.static_range(1, RADIUS + 1):
        left = _load(row, x - dx, width, labels_x, ignore_index)
        right = _load(row, x + dx, width, labels_x, ignore_index)
        low = tl.minimum(low, tl.minimum(left - 1, right - 1))
        high = tl.maximum(high, tl.maximum(left, right))
        lowest += (low,)
        highest += (high,)
    return centre, lowest, highest


@triton.jit
def _load(row, x, width, stride_x, ignore_index):
    """``label - void`` as an unsigned number, of column x clamped to the image."""
    x = tl.minimum(tl.maximum(x, 0), width - 1)
    return (tl.load(row + x * stride_x).to(tl.int32) - ignore_index).to(tl.uint32, bitcast=True)


@triton.constexpr_function
def _half_chord(radius, dy):
    """How many columns the disk reaches to either side, dy rows away from its centre."""
    return int((radius * radius - dy * dy) ** 0.5)


@triton.jit
def _block(blocks_y, blocks_x):
    """This program's image (int64), and row and column of its block."""
    program = tl.program_id(0)
    return (program // (blocks_y * blocks_x)).to(tl.int64), program // blocks_x % blocks_y, program % blocks_x


@triton.jit(do_not_specialize=VARYING)
def _boundary_map_stencil(
    labels,  # [N, H, W]
    result,  # [N, H, W]
    height, width, blocks_y, blocks_x, labels_n, labels_y, labels_x, ignore_index,
    RADIUS: tl.constexpr, RELEASE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The map for any radius. With RELEASE, class 0, void and all outside are one class, and nothing is void."""
    n, block_y, block_x = _block(blocks_y, blocks_x)
    y = block_y * ROWS + tl.arange(0, ROWS)[:, None]
    x = block_x * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    labels += n * labels_n
    outside = 0 if RELEASE else ignore_index
    here = _label(labels, y, x, height, width, labels_y, labels_x, outside)
    if RELEASE:
        here = tl.where(here == ignore_index, 0, here)
    near = tl.zeros(here.shape, tl.int1)
    for dy in range(-RADIUS, RADIUS + 1):
        for dx in range(-RADIUS, RADIUS + 1):
            if dy * dy + dx * dx <= RADIUS * RADIUS:
                there = _label(labels, y + dy, x + dx, height, width, labels_y, labels_x, outside)
                if RELEASE:
                    near |= here != tl.where(there == ignore_index, 0, there)
                else:
                    near |= (here != there) & (there != ignore_index)
    near = near.to(tl.int32)
    if not RELEASE:
        near = tl.where(here == ignore_index, VOID, near)
    tl.store(result + n * height * width + (y * width + x), near.to(tl.uint8), (y < height) & (x < width))


@triton.jit
def _label(labels, y, x, height, width, stride_y, stride_x, outside):
    """Labels at ``(y, x)``, and ``outside`` beyond the image."""
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return tl.where(inside, gather(labels, y * stride_y + x * stride_x, inside).to(tl.int32), outside)
