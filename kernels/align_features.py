"""align's features: one launch per layer handles the tiles of both sides.

A program computes 128 places of up to 32 channels. Convolutions are sums of matrix products, one for each of the nine
neighbours. Before a backward, the forward also stores what the SiLUs read. In the backward, every value
gathers the gradients of what read it. The forward also read a copy of the border, whose gradients go to the border.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.align import CELL, EPS, NORM_GROUPS
from .align_sizes import (
    CELL_SQUARES,
    FEATURES,
    FIRST,
    FIRST_PADDED,
    NORM_GROUP,
    PIXELS,
    SECOND,
    SECOND_PADDED,
    SQUARE,
    SQUARES,
)
from .elementary import precision, product, silu, silu_derivative
from .memory import VARYING, gather, scatter, weight_at

BLOCK, WARPS = 128, 4  # places of a program
NORM_BLOCK = 1024


class Features(NamedTuple):
    """What the layers give: first for the N predicted tiles, then for the N targets; channels first, in float32."""

    first_linear: Tensor  # [2 N, 10, squares of 4 x 4 pixels]: the first layer before its SiLU, or [0, ...]
    second_linear: Tensor  # [2 N, 24, cells]: the second one, or [0, ...]
    raw: Tensor  # [2 N, 16, cells], before the normalization
    statistics: Tensor  # [2 N, 4, 2]: mean and reciprocal deviation
    normal: Tensor  # [2 N, 16, cells]


def features(
    predicted: Tensor,  # [N, 1, edge, edge], contiguous
    target: Tensor,  # [N, 1, edge, edge], contiguous
    weights: Sequence[Tensor],
    for_backward: bool,
) -> Features:
    w1, b1, w2, b2, w3, b3, scale, shift = weights
    n, width = predicted.shape[0], predicted.shape[-1] // CELL
    new, cells = predicted.new_empty, width * width
    squares = SQUARES.value * cells
    first = new(2 * n, FIRST.value, squares, dtype=torch.float32)
    kept = 2 * n if for_backward else 0  # maps of which the backward reads more
    first_linear = new(kept, FIRST.value, squares, dtype=torch.float32)
    second_linear = new(kept, SECOND.value, cells, dtype=torch.float32)
    raw = new(2 * n, FEATURES.value, cells, dtype=torch.float32)
    statistics = new(2 * n, NORM_GROUPS, 2, dtype=torch.float32)
    normal = torch.empty_like(raw)
    blocks = triton.cdiv(squares, BLOCK)
    _first_layer[(2 * n * blocks,)](
        predicted, target, w1, b1, first, first_linear, n, width, blocks, kept,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    blocks = triton.cdiv(cells, BLOCK)
    _second_layer[(2 * n * blocks,)](
        first, w2, b2, w3, b3, second_linear, raw, width, blocks, kept,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    _group_norm[(2 * n * NORM_GROUPS,)](
        raw, scale, shift, statistics, normal, cells,
        EPS=EPS, GROUPS=NORM_GROUPS, BLOCK=NORM_BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    return Features(first_linear, second_linear, raw, statistics, normal)


def features_backward(
    grad: Tensor,  # [maps, 16, cells]: of the features of the maps from ``start`` on
    kept: Features,
    weights: Sequence[Tensor],
    start: int,
    grad_predicted: Tensor,  # [N, 1, edge, edge], or [0]
    grad_target: Tensor,  # [N, 1, edge, edge], or [0]
) -> None:
    """Write the gradients of the tiles that those maps come from."""
    w1, _, w2, _, w3, _, scale, _ = weights
    maps, _, cells = grad.shape
    n, width, squares = kept.raw.shape[0] // 2, round(cells**0.5), SQUARES.value * cells
    grad_second = grad.new_empty(maps, SECOND.value, cells)
    grad_first = grad.new_empty(maps, FIRST.value, squares)
    _group_norm_backward[(maps,)](
        grad, kept.raw, kept.statistics, scale, w3, kept.second_linear, grad_second, start, cells,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=2 * WARPS, num_stages=1,
    )  # fmt: skip
    blocks = triton.cdiv(cells, BLOCK)
    _second_layer_backward[(maps * SQUARES.value * blocks,)](
        grad_second, w2, kept.first_linear, grad_first, start, width, blocks,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    blocks = triton.cdiv(squares, BLOCK)
    _first_layer_backward[(maps * blocks,)](
        grad_first, w1, grad_predicted, grad_target, n, start, width, blocks,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip


@triton.jit(do_not_specialize=VARYING)
def _first_layer(
    predicted,  # [N, 1, edge, edge]
    target,  # [N, 1, edge, edge]
    w1,  # [10, 16, 3, 3]
    b1,  # [10]
    first,  # [2 N, 10, squares]
    linear,  # [kept, 10, squares]: before its SiLU
    n, width, blocks, kept,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A 3 x 3 convolution whose input channels are the pixels of a square, and a SiLU."""
    program = tl.program_id(0)
    place = program % blocks * BLOCK + tl.arange(0, BLOCK)
    m = (program // blocks).to(tl.int64)
    span, edge = width * CELL_SQUARES, width * (CELL_SQUARES * SQUARE)  # of a tile, in squares and in pixels
    if m < n:  # noqa: SIM108 (Triton has no conditional expression for values of run time)
        tile = predicted + m * edge * edge
    else:
        tile = target + (m - n) * edge * edge
    y, x = place // span, place % span
    pixel, channel = tl.arange(0, PIXELS), tl.arange(0, FIRST_PADDED)
    total = tl.zeros([FIRST_PADDED, BLOCK], tl.float32)
    for tap in range(9):
        square_y = tl.minimum(tl.maximum(y + tap // 3 - 1, 0), span - 1)
        square_x = tl.minimum(tl.maximum(x + tap % 3 - 1, 0), span - 1)
        corner, within = square_y * SQUARE * edge + square_x * SQUARE, pixel // SQUARE * edge + pixel % SQUARE
        pixels = tl.load(tile + (corner[:, None] + within[None, :])).to(tl.float32)
        w = weight_at(w1 + channel[:, None] * (9 * PIXELS) + pixel[None, :] * 9 + tap, channel[:, None] < FIRST)
        total = product(w, tl.trans(pixels), total, PRECISION)
    total += weight_at(b1 + channel, channel < FIRST)[:, None]
    entry = m * FIRST * span * span + channel[:, None] * (span * span) + place[None, :]
    owned = (channel < FIRST)[:, None] & (place < span * span)[None, :]
    tl.store(linear + entry, total, owned & (m < kept))
    tl.store(first + entry, silu(total), owned)


@triton.jit(do_not_specialize=VARYING)
def _second_layer(
    first,  # [2 N, 10, squares]
    w2,  # [24, 10, 3, 3]
    b2,  # [24]
    w3,  # [16, 24, 1, 1]
    b3,  # [16]
    linear,  # [kept, 24, cells]: the second layer before its SiLU
    raw,  # [2 N, 16, cells]
    width, blocks, kept,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A 3 x 3 convolution of stride 2, a SiLU, and a 1 x 1 convolution."""
    program = tl.program_id(0)
    cell = program % blocks * BLOCK + tl.arange(0, BLOCK)
    m = (program // blocks).to(tl.int64)
    cells, span = width * width, width * CELL_SQUARES
    first += m * FIRST * SQUARES * cells
    y, x, inside = cell // width, cell % width, (cell < cells)[None, :]
    source, channel, feature = tl.arange(0, FIRST_PADDED), tl.arange(0, SECOND_PADDED), tl.arange(0, FEATURES)
    real = (channel < SECOND)[:, None]
    total = tl.zeros([SECOND_PADDED, BLOCK], tl.float32)
    for tap in range(9):
        square = tl.maximum(y * CELL_SQUARES + tap // 3 - 1, 0) * span + tl.maximum(x * CELL_SQUARES + tap % 3 - 1, 0)
        hit = (source < FIRST)[:, None] & inside
        values = gather(first, source[:, None] * (SQUARES * cells) + square[None, :], hit)
        w = weight_at(
            w2 + channel[:, None] * (9 * FIRST) + source[None, :] * 9 + tap, real & (source < FIRST)[None, :]
        )  # fmt: skip
        total = product(w, values, total, PRECISION)
    total += weight_at(b2 + channel, channel < SECOND)[:, None]
    entry = m * SECOND * cells + channel[:, None] * cells + cell[None, :]
    tl.store(linear + entry, total, real & inside & (m < kept))
    w = weight_at(w3 + feature[:, None] * SECOND + channel[None, :], (channel < SECOND)[None, :])
    values = (
        product(w, silu(total), tl.zeros([FEATURES, BLOCK], tl.float32), PRECISION)
        + weight_at(b3 + feature, feature >= 0)[:, None]
    )
    tl.store(raw + m * FEATURES * cells + feature[:, None] * cells + cell[None, :], values, inside)


@triton.jit(do_not_specialize=VARYING)
def _group_norm(
    raw,  # [2 N, 16, cells]
    scale,  # [16]
    shift,  # [16]
    statistics,  # [2 N, groups, 2]: mean and reciprocal deviation
    normal,  # [2 N, 16, cells]
    cells,
    EPS: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Normalize the features over a tile; a program owns one group of channels of one map."""
    group = tl.program_id(0).to(tl.int64)
    count = NORM_GROUP * cells
    raw += group * count
    normal += group * count
    place = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, count, BLOCK):
        total += tl.load(raw + begin + place, begin + place < count, 0)
    mean = tl.sum(total) / count
    total = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, count, BLOCK):
        off = tl.where(begin + place < count, tl.load(raw + begin + place, begin + place < count, 0) - mean, 0)
        total += off * off
    deviation = 1 / tl.sqrt_rn(tl.sum(total) / count + EPS)
    tl.store(statistics + group * 2, mean)
    tl.store(statistics + group * 2 + 1, deviation)
    for begin in range(0, count, BLOCK):
        inside = begin + place < count
        channel = (group % GROUPS).to(tl.int32) * NORM_GROUP + (begin + place) // cells
        value = (tl.load(raw + begin + place, inside, 0) - mean) * deviation
        value = value * weight_at(scale + channel, inside) + weight_at(shift + channel, inside)
        tl.store(normal + begin + place, value, inside)


@triton.jit(do_not_specialize=VARYING)
def _group_norm_backward(
    grad,  # [maps, 16, cells]: of the normalized features
    raw,  # [2 N, 16, cells]
    statistics,  # [2 N, groups, 2]
    scale,  # [16]
    w3,  # [16, 24, 1, 1]
    second_linear,  # [2 N, 24, cells]
    grad_second,  # [maps, 24, cells]: of the second layer, before its SiLU
    start, cells,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program owns a map. It goes back through the normalization, the 1 x 1 convolution and the SiLU before that."""
    m = tl.program_id(0).to(tl.int64)
    feature, channel = tl.arange(0, FEATURES), tl.arange(0, SECOND_PADDED)
    grad += m * FEATURES * cells
    grad_second += m * SECOND * cells
    raw += (m + start) * FEATURES * cells
    second_linear += (m + start) * SECOND * cells
    statistics += (m + start) * (FEATURES // NORM_GROUP * 2) + feature // NORM_GROUP * 2
    mean, deviation = tl.load(statistics)[:, None], tl.load(statistics + 1)[:, None]
    factor = weight_at(scale + feature, feature >= 0)[:, None]
    # A group has values z = (x - mean) deviation with deviation = 1 / sqrt(variance + EPS); both statistics depend
    # on every x. With g the gradient of z, x gets deviation (g - mean(g) - z mean(g z)), with means over the group: the
    # second term comes through the mean, the third through the variance.
    total, along = tl.zeros([FEATURES, BLOCK], tl.float32), tl.zeros([FEATURES, BLOCK], tl.float32)
    for begin in range(0, cells, BLOCK):
        cell = begin + tl.arange(0, BLOCK)
        place, inside = feature[:, None] * cells + cell[None, :], (cell < cells)[None, :]
        grad_normal = tl.load(grad + place, inside, 0) * factor
        total += grad_normal
        along += grad_normal * (tl.load(raw + place, inside, 0) - mean) * deviation
    mean_grad = _group_sums(tl.sum(total, 1))[:, None] / (NORM_GROUP * cells)
    mean_grad_normal = _group_sums(tl.sum(along, 1))[:, None] / (NORM_GROUP * cells)
    w = weight_at(w3 + feature[None, :] * SECOND + channel[:, None], (channel < SECOND)[:, None])
    for begin in range(0, cells, BLOCK):
        cell = begin + tl.arange(0, BLOCK)
        place, inside = feature[:, None] * cells + cell[None, :], (cell < cells)[None, :]
        normal = (tl.load(raw + place, inside, 0) - mean) * deviation
        grad_raw = deviation * (tl.load(grad + place, inside, 0) * factor - mean_grad - normal * mean_grad_normal)
        grad_layer = product(w, grad_raw, tl.zeros([SECOND_PADDED, BLOCK], tl.float32), PRECISION)
        place, owned = channel[:, None] * cells + cell[None, :], (channel < SECOND)[:, None] & inside
        tl.store(grad_second + place, grad_layer * silu_derivative(tl.load(second_linear + place, owned, 0)), owned)


@triton.jit(do_not_specialize=VARYING)
def _second_layer_backward(
    grad_second,  # [maps, 24, cells]
    w2,  # [24, 10, 3, 3]
    first_linear,  # [2 N, 10, squares]
    grad_first,  # [maps, 10, squares]: of the first layer, before its SiLU
    start, width, blocks,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program owns squares of one parity of y and one of x, because neighbours read all of these in the same way."""
    program = tl.program_id(0)
    cell = program % blocks * BLOCK + tl.arange(0, BLOCK)
    odd_y, odd_x = program // blocks % 4 // 2, program // blocks % 2
    m = (program // (4 * blocks)).to(tl.int64)
    cells, span = width * width, width * CELL_SQUARES
    grad_second += m * SECOND * cells
    y, x, inside = cell // width, cell % width, cell < cells
    source, channel = tl.arange(0, FIRST_PADDED), tl.arange(0, SECOND_PADDED)
    total = tl.zeros([FIRST_PADDED, BLOCK], tl.float32)
    for tap in range(4):
        ky, from_y, hit_y = _reader(y, tap // 2, odd_y, width)
        kx, from_x, hit_x = _reader(x, tap % 2, odd_x, width)
        hit = (channel < SECOND)[:, None] & (inside & hit_y & hit_x)[None, :]
        grad = gather(grad_second, channel[:, None] * cells + (from_y * width + from_x)[None, :], hit)
        w = weight_at(
            w2 + channel[None, :] * (9 * FIRST) + source[:, None] * 9 + (ky * 3 + kx),
            (channel < SECOND)[None, :] & (source < FIRST)[:, None],
        )
        total = product(w, grad, total, PRECISION)
    square = (y * CELL_SQUARES + odd_y) * span + x * CELL_SQUARES + odd_x
    place, owned = source[:, None] * (SQUARES * cells) + square[None, :], (source < FIRST)[:, None] & inside[None, :]
    linear = gather(first_linear + (m + start) * FIRST * SQUARES * cells, place, owned)
    scatter(grad_first + m * FIRST * SQUARES * cells, place, total * silu_derivative(linear), owned)


@triton.jit
def _reader(cell, second, odd, width):
    """One of the two cells that read square ``2 cell + odd``: its weight's index, the cell, and whether there is one.

    An odd square is read by the cell after it and by its own cell. An even one is read by its own cell alone, but twice
    at the border, where that cell also reads the copy beyond the border, with the first weight.
    """
    reader = cell + odd * (1 - second)
    return (
        odd * 2 * second + (1 - odd) * (1 - second),
        reader,
        (reader < width) & ((odd + (1 - second) > 0) | (cell == 0)),
    )


@triton.jit(do_not_specialize=VARYING)
def _first_layer_backward(
    grad_first,  # [maps, 10, squares]
    w1,  # [10, 16, 3, 3]
    grad_predicted,  # [N, 1, edge, edge], or [0]
    grad_target,  # [N, 1, edge, edge], or [0]
    n, start, width, blocks,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    place = program % blocks * BLOCK + tl.arange(0, BLOCK)
    m = (program // blocks).to(tl.int64)
    span, edge = width * CELL_SQUARES, width * (CELL_SQUARES * SQUARE)
    if m + start < n:  # noqa: SIM108 (Triton has no conditional expression for values of run time)
        tile = grad_predicted + (m + start) * edge * edge
    else:
        tile = grad_target + (m + start - n) * edge * edge
    grad_first += m * FIRST * span * span
    y, x, inside = place // span, place % span, place < span * span
    pixel, channel = tl.arange(0, PIXELS), tl.arange(0, FIRST_PADDED)
    total = tl.zeros([BLOCK, PIXELS], tl.float32)
    for tap in range(9):
        ky, kx = tap // 3, tap % 3
        grad = tl.zeros([FIRST_PADDED, BLOCK], tl.float32)
        for again_y in tl.static_range(2):  # The second time is for the copy beyond the border.
            from_y, hit_y = _sender(y, ky, span, again_y)
            for again_x in tl.static_range(2):
                from_x, hit_x = _sender(x, kx, span, again_x)
                hit = (channel < FIRST)[:, None] & (inside & hit_y & hit_x)[None, :]
                grad += gather(grad_first, channel[:, None] * (span * span) + (from_y * span + from_x)[None, :], hit)
        w = weight_at(w1 + channel[:, None] * (9 * PIXELS) + pixel[None, :] * 9 + tap, channel[:, None] < FIRST)
        total = product(tl.trans(grad), w, total, PRECISION)
    corner, within = y * SQUARE * edge + x * SQUARE, pixel // SQUARE * edge + pixel % SQUARE
    tl.store(tile + (corner[:, None] + within[None, :]), total.to(tile.dtype.element_ty), inside[:, None])


@triton.jit
def _sender(square, k, span, AGAIN: tl.constexpr):
    """The square that read this one with its weight k, or, if AGAIN, this one's copy; and whether there is one."""
    if AGAIN:
        return square, ((k == 0) & (square == 0)) | ((k == 2) & (square == span - 1))
    else:
        sender = square + 1 - k
        return sender, (sender >= 0) & (sender < span)


@triton.jit
def _group_sums(values):
    """Replace each channel's value by the sum over its group."""
    sums = tl.sum(tl.reshape(values, [FEATURES // NORM_GROUP, NORM_GROUP]), 1)
    return tl.reshape(tl.broadcast_to(sums[:, None], [FEATURES // NORM_GROUP, NORM_GROUP]), [FEATURES])
