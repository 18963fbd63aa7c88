"""align's correlation layer: from the features of both sides to the measurement's first hidden layer, and back.

The measurement of map m compares its own features with those of map m + N, modulo 2 N. So one launch computes both
orders of every pair, by the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from .align_sizes import (
    CHANNELS,
    CORRELATIONS,
    FEATURES,
    HIDDEN,
    HIDDEN_PADDED,
    MATCH_GROUP,
    MATCH_GROUPS,
    SPAN,
    SPAN_PADDED,
)
from .elementary import precision, product, silu
from .memory import VARYING, weight_at

BLOCK, WARPS = 128, 4  # cells of a program


def correlation_layer(
    normal: Tensor,  # [2 N, 16, cells]
    weights: Sequence[Tensor],  # of the measurement
    for_backward: bool,
) -> tuple[Tensor, Tensor]:
    """The first hidden layer ``[2 N, 26, cells]`` of correlations and features; for the backward, it is also returned
    as it is before its SiLU."""
    maps, _, cells = normal.shape
    blocks = triton.cdiv(cells, BLOCK)
    hidden = normal.new_empty(maps, HIDDEN.value, cells)
    kept = maps if for_backward else 0
    linear = normal.new_empty(kept, HIDDEN.value, cells)
    _correlation_layer[(maps * blocks,)](
        normal, weights[0], weights[1], hidden, linear, maps // 2, round(cells**0.5), blocks, kept,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    return hidden, linear


def correlation_backward(
    grad_channels: Tensor,  # [2 N, 114, cells]
    normal: Tensor,  # [2 N, 16, cells]
    start: int,
    count: int,
) -> Tensor:
    """``[count, 16, cells]``: the gradient of the features of the ``count`` maps from ``start`` on."""
    maps, _, cells = normal.shape
    blocks = triton.cdiv(cells, BLOCK)
    grad_normal = normal.new_empty(count, FEATURES.value, cells)
    _correlation_backward[(count * blocks,)](
        grad_channels, normal, grad_normal, maps // 2, start, round(cells**0.5), blocks,
        BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    return grad_normal


@triton.jit(do_not_specialize=VARYING)
def _correlation_layer(
    normal,  # [2 N, 16, cells]
    w1,  # [26, 114, 1, 1]
    b1,  # [26]
    hidden,  # [2 N, 26, cells]
    linear,  # [kept, 26, cells]: before its SiLU
    n, width, blocks, kept,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    m, cell, y, x, inside = cells_of_map(width, blocks, BLOCK)
    cells = width * width
    own, other = normal + m * FEATURES * cells, normal + (m + n) % (2 * n) * FEATURES * cells
    out, feature = tl.arange(0, HIDDEN_PADDED), tl.arange(0, FEATURES)
    column = tl.arange(0, MATCH_GROUPS * SPAN_PADDED)
    group, dx = tl.arange(0, MATCH_GROUPS)[:, None, None], tl.arange(0, SPAN_PADDED)[None, :, None] - SPAN // 2
    first = group * MATCH_GROUP * cells
    own_place, place = first + cell[None, None, :], (first + dx) + cell[None, None, :]
    hit_x = (dx <= SPAN // 2) & (x[None, None, :] + dx >= 0) & (x[None, None, :] + dx < width)
    values = tl.load(own + feature[:, None] * cells + cell[None, :], inside[None, :], 0)
    w = weight_at(w1 + out[:, None] * CHANNELS + CORRELATIONS + feature[None, :], (out < HIDDEN)[:, None])
    total = product(w, values, tl.zeros([HIDDEN_PADDED, BLOCK], tl.float32), PRECISION)
    for row in range(SPAN):
        dy = row - SPAN // 2
        hit_y = inside & (y + dy >= 0) & (y + dy < width)
        correlation = tl.zeros([MATCH_GROUPS, SPAN_PADDED, BLOCK], tl.float32)
        for c in range(MATCH_GROUP):
            here = tl.load(own + (own_place + c * cells), inside[None, None, :], 0)
            there = tl.load(other + (place + (c * cells + dy * width)), hit_x & hit_y[None, None, :], 0)
            correlation += here * there
        w = weight_at(
            w1 + out[:, None] * CHANNELS + correlation_channel(row, column)[None, :],
            (out < HIDDEN)[:, None] & (column % SPAN_PADDED < SPAN)[None, :],
        )
        correlation = tl.reshape(correlation / MATCH_GROUP, [MATCH_GROUPS * SPAN_PADDED, BLOCK])
        total = product(w, correlation, total, PRECISION)
    total += weight_at(b1 + out, out < HIDDEN)[:, None]
    owned = (out < HIDDEN)[:, None] & inside[None, :]
    entry = m * HIDDEN * cells + out[:, None] * cells + cell[None, :]
    tl.store(linear + entry, total, owned & (m < kept))
    tl.store(hidden + entry, silu(total), owned)


@triton.jit(do_not_specialize=VARYING)
def _correlation_backward(
    grad_channels,  # [2 N, 114, cells]: of the correlations, then of the features that the first layer read
    normal,  # [2 N, 16, cells]
    grad_normal,  # [count, 16, cells]
    n, start, width, blocks,
    BLOCK: tl.constexpr,
):  # fmt: skip
    m, cell, y, x, inside = cells_of_map(width, blocks, BLOCK)
    cells = width * width
    grad_normal += m * FEATURES * cells
    m += start
    other = (m + n) % (2 * n)
    normal += other * FEATURES * cells
    as_first, as_second = grad_channels + m * CHANNELS * cells, grad_channels + other * CHANNELS * cells
    group, c = tl.arange(0, MATCH_GROUPS)[:, None, None], tl.arange(0, MATCH_GROUP)[None, :, None]
    here = cell[None, None, :]
    total = tl.zeros([MATCH_GROUPS, MATCH_GROUP, BLOCK], tl.float32)
    # The correlation of offset d at cell p is mean_c f_c(p) g_c(p + d), with f of this map and g of the other one. So
    # f_c(p) gets grad_d(p) g_c(p + d). In the other order this map comes second: there it meets g_c(q) at q = p + d, by
    # the opposite offset -d, and f_c(p) gets grad_-d(p + d) g_c(p + d). Both are multiplied by the same g_c(p + d).
    for row in range(SPAN):
        dy = row - SPAN // 2
        hit_y = inside & (y + dy >= 0) & (y + dy < width)
        for column in range(SPAN):
            dx, offset = column - SPAN // 2, row * SPAN + column
            there, opposite = here + (dy * width + dx), SPAN * SPAN - 1 - offset
            hit = (hit_y & (x + dx >= 0) & (x + dx < width))[None, None, :]
            grad = tl.load(as_first + (group * (SPAN * SPAN) + offset) * cells + here, hit, 0)
            grad += tl.load(as_second + (group * (SPAN * SPAN) + opposite) * cells + there, hit, 0)
            total += grad * tl.load(normal + (group * MATCH_GROUP + c) * cells + there, hit, 0)
    place = (group * MATCH_GROUP + c) * cells + here
    owned = inside[None, None, :]
    total = total / MATCH_GROUP + tl.load(as_first + CORRELATIONS * cells + place, owned, 0)
    tl.store(grad_normal + place, total, owned)


@triton.jit
def cells_of_map(width, blocks, BLOCK: tl.constexpr):
    """This program's map (int64), its cells with their rows and columns, and which of them exist."""
    program = tl.program_id(0)
    cell = program % blocks * BLOCK + tl.arange(0, BLOCK)
    return (program // blocks).to(tl.int64), cell, cell // width, cell % width, cell < width * width


@triton.jit
def correlation_channel(row, column):
    """The channel of a row of offsets and a column ``[groups * SPAN_PADDED]``; columns from SPAN on have none."""
    return column // SPAN_PADDED * (SPAN * SPAN) + row * SPAN + column % SPAN_PADDED
