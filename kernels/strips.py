"""Strips of full pixels that a warp walks down, for kernels that compare a pixel's probabilities with its neighbors'.

A lane owns four columns side by side, a *quad*, and a program walks GROUP classes down the same strip, one a warp.
Values of a row are tuples of four ``[GROUP, LANES]``. So windows along y lie in a lane's registers, and those along x
in its registers and its neighbors', which it reads by shuffles. The outer lanes are a margin: they see too little.

Maps that only these kernels see have whole quads in a row, so that a lane reads its quad at once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .resize import first_of_cell, lerp, load, taps

QUAD, LANES = tl.constexpr(4), tl.constexpr(32)
GROUP = tl.constexpr(4)  # classes of a program: its warps read the same pixels at about the same time
SEGMENT = tl.constexpr(64)  # rows of a program


def padded(width: int) -> int:
    """The columns of whole quads that hold a row of pixels."""
    return triton.cdiv(width, QUAD.value) * QUAD.value


def strips(width: int, reach: int) -> int:
    """How many strips cover a row of pixels, if those within the reach of a pixel must be seen."""
    return triton.cdiv(padded(width), QUAD.value * LANES.value - 2 * padded(reach))


def segments(rows: int) -> int:
    return triton.cdiv(rows, SEGMENT.value)


def groups(classes: int) -> int:
    return triton.cdiv(classes, GROUP.value)


@triton.jit
def row_size(width):
    """The columns of whole quads that hold a row of pixels."""
    return tl.cdiv(width, QUAD) * QUAD


@triton.jit
def strip_of_image(first, blocks_y, blocks_x, classes, REACH: tl.constexpr):
    """This program's image (int64), first row, first class, and first quad, which is of the margin."""
    margin: tl.constexpr = (REACH + QUAD - 1) // QUAD
    program, groups = tl.program_id(0) // tl.cdiv(classes, GROUP), tl.cdiv(classes, GROUP)
    n, start = (program // (blocks_y * blocks_x)).to(tl.int64), first + program // blocks_x % blocks_y * SEGMENT
    return n, start, tl.program_id(0) % groups * GROUP, program % blocks_x * (LANES - 2 * margin) - margin


@triton.jit
def in_strip(lane, REACH: tl.constexpr):
    """Whether lanes belong to the strip, not to its margin."""
    margin: tl.constexpr = (REACH + QUAD - 1) // QUAD
    return (lane >= margin) & (lane < LANES - margin)


# Loads and stores are one-dimensional, so that the compiler has no choice but to give each lane its own quad.
@triton.jit
def columns_of(first_quad, width, full_width, logits_x):
    """Of each column of the quads: the offsets of the two logits that it lies between, and the share of the second."""
    quad, left, right, share = first_quad + tl.arange(0, GROUP * LANES) % LANES, (), (), ()
    for i in tl.static_range(QUAD):
        x0, x1, share_x = taps(tl.minimum(tl.maximum(quad * QUAD + i, 0), full_width - 1), width, full_width)
        left += (x0 * logits_x,)
        right += (x1 * logits_x,)
        share += (share_x,)
    return left, right, share


@triton.jit
def classes_of(first_class, classes):
    """The class of each value of a row's column; those that do not exist are the last one."""
    return tl.minimum(first_class + tl.arange(0, GROUP * LANES) // LANES, classes - 1)


@triton.jit
def cell_of(row, height, full_height):
    """The cell (see :mod:`.resize`) of a full row; those beyond the image belong to the outermost cells."""
    row = tl.minimum(tl.maximum(row, 0), full_height - 1)
    return ((2 * row + 1) * height + full_height) // (2 * full_height) - 1


@triton.jit
def rows_of(cell, start, end, height, full_height):
    """The first full row of a cell, and the one behind its last, of those from start to end."""
    first = tl.where(cell <= cell_of(start, height, full_height), start, first_of_cell(cell, height, full_height))
    last = tl.where(cell >= cell_of(end - 1, height, full_height), end, first_of_cell(cell + 1, height, full_height))
    return first, last


@triton.jit
def logits_of_cell(logits, cell, columns, height, logits_y, RESIZED: tl.constexpr):
    """Each column's logits in the upper row of a cell, and how much more they are in the lower row.

    ``logits`` are the first ones of :func:`classes_of`.
    """
    left, right, share = columns
    above = logits + tl.minimum(tl.maximum(cell, 0), height - 1) * logits_y
    below = logits + tl.minimum(cell + 1, height - 1) * logits_y
    upper, change = (), ()
    for i in tl.static_range(QUAD):
        logit = load(above + left[i])
        if RESIZED:
            logit = lerp(logit, load(above + right[i]), share[i])
            more = lerp(load(below + left[i]), load(below + right[i]), share[i]) - logit
            change += (tl.reshape(more, [GROUP, LANES]),)
        else:
            change += (0.0,)
        upper += (tl.reshape(logit, [GROUP, LANES]),)
    return upper, change


@triton.jit
def load_quads(maps, row, first_quad, full_height, full_width, default):
    """The four columns of a row's quads, and the default where the map has none."""
    quad, column = _flat(first_quad)
    exists = (row >= 0) & (row < full_height) & (quad >= 0) & (quad * QUAD < full_width)
    values = tl.load(maps + ((row * tl.cdiv(full_width, QUAD) + quad) * QUAD + column), exists, default)
    even, odd = tl.split(tl.reshape(values, [GROUP, LANES, 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def store_quads(maps, rows, classes, first_class, row, first_quad, full_width, values, REACH: tl.constexpr):
    """Writes the four columns of a row's quads that are not of the margin; ``maps`` have so many rows a class."""
    quad, column = _flat(first_quad)
    c = first_class + tl.arange(0, GROUP * LANES * QUAD) // (LANES * QUAD)
    owned = (c < classes) & in_strip(quad - first_quad, REACH) & (quad * QUAD < full_width)
    quads = tl.join(tl.join(values[0], values[2]), tl.join(values[1], values[3]))
    place = (c.to(tl.int64) * rows + row) * row_size(full_width) + (quad * QUAD + column)
    tl.store(maps + place, tl.reshape(quads, [GROUP * LANES * QUAD]), owned)


@triton.jit
def _flat(first_quad):
    """Of a row's values one after the other: their quads, and their columns in it."""
    place = tl.arange(0, GROUP * LANES * QUAD)
    return first_quad + place // QUAD % LANES, place % QUAD


@triton.jit
def with_neighbors(values, RADIUS: tl.constexpr):
    """A row's values, from RADIUS columns before the quads to RADIUS columns behind them."""
    result = ()
    for i in tl.static_range(QUAD - RADIUS, QUAD):
        result += (_of_lane(values[i], -1),)
    result += values
    for i in tl.static_range(RADIUS):
        result += (_of_lane(values[i], 1),)
    return result


@triton.jit
def sum_with_neighbors(values, RADIUS: tl.constexpr):
    """The adjoint of :func:`with_neighbors`: adds to each column what its lane and the neighbors' have for it."""
    result = ()
    for i in tl.static_range(QUAD):
        added = values[RADIUS + i]
        if i >= QUAD - RADIUS:
            added += _of_lane(values[i - QUAD + RADIUS], 1)
        if i < RADIUS:
            added += _of_lane(values[RADIUS + QUAD + i], -1)
        result += (added,)
    return result


@triton.jit
def least(values, FIRST: tl.constexpr, COUNT: tl.constexpr, STEP: tl.constexpr):
    """The least of COUNT values, from the FIRST on."""
    result = values[FIRST]
    for i in tl.static_range(1, COUNT):
        result = tl.minimum(result, values[FIRST + i * STEP])
    return result


@triton.jit
def _of_lane(values, OFFSET: tl.constexpr):
    """The values of the lane at an offset; those beyond the strip mean nothing."""
    lane = tl.minimum(tl.maximum(tl.arange(0, LANES)[None, :] + OFFSET, 0), LANES - 1)
    return tl.gather(values, tl.broadcast_to(lane, values.shape), 1)
