"""align's features: of the tiles of both sides in one launch a layer, 32 outputs or fewer by 128 places a program.

Convolutions are sums of matrix products, one for each of the nine neighbours. The backward's own forward stores the
slopes of the SiLUs too. Backward, every value gathers what it sent; what a copy of the border sent comes from the same
place once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.align import CELL, EPS, NORM_GROUPS
from .elementary import precision, product, silu, silu_slope
from .memory import gather, scatter, weight_at

BLOCK, WARPS = 128, 4  # places of a program
NORM_BLOCK = 1024
FIRST, SECOND, FEATURES = tl.constexpr(10), tl.constexpr(24), tl.constexpr(16)  # channels of the three layers
OF_GROUP = tl.constexpr(FEATURES.value // NORM_GROUPS)


class Features(NamedTuple):
    """Of the N predicted tiles, then of the N targets; channels first, in float32."""

    first_slope: Tensor | None  # (2 N, 10, blocks of 4 x 4 pixels): of the SiLU
    second_slope: Tensor | None  # (2 N, 24, cells)
    raw: Tensor  # (2 N, 16, cells), before the normalisation
    statistics: Tensor  # (2 N, 4, 2): mean and reciprocal deviation
    normal: Tensor  # (2 N, 16, cells)


def features(predicted: Tensor, target: Tensor, weights: Sequence[Tensor], for_backward: bool) -> Features:
    """Of contiguous tiles; weights are the first eight of align's."""
    w1, b1, w2, b2, w3, b3, scale, shift = weights
    n, width = predicted.shape[0], predicted.shape[-1] // CELL
    new, cells = predicted.new_empty, width * width
    first = new(2 * n, FIRST.value, 4 * cells, dtype=torch.float32)
    first_slope = torch.empty_like(first) if for_backward else None
    second_slope = new(2 * n, SECOND.value, cells, dtype=torch.float32) if for_backward else None
    raw = new(2 * n, FEATURES.value, cells, dtype=torch.float32)
    statistics = new(2 * n, NORM_GROUPS, 2, dtype=torch.float32)
    normal = torch.empty_like(raw)
    blocks = triton.cdiv(4 * cells, BLOCK)
    _first_layer[(2 * n * blocks,)](
        predicted, target, w1, b1, first, first_slope, n, width, blocks,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    blocks = triton.cdiv(cells, BLOCK)
    _second_layer[(2 * n * blocks,)](
        first, w2, b2, w3, b3, second_slope, raw, width, blocks,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    _normalise[(2 * n * NORM_GROUPS,)](
        raw, scale, shift, statistics, normal, cells,
        EPS=EPS, GROUPS=NORM_GROUPS, BLOCK=NORM_BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    return Features(first_slope, second_slope, raw, statistics, normal)


def features_backward(
    grad: Tensor, kept: Features, weights: Sequence[Tensor], start: int, grad_predicted: Tensor, grad_target: Tensor
) -> None:
    """Write the gradients of the tiles that the maps from ``start`` on come from; ``grad`` is that of those maps."""
    w1, _, w2, _, w3, _, scale, _ = weights
    maps, _, cells = grad.shape
    n, width = kept.raw.shape[0] // 2, round(cells**0.5)
    of_second = grad.new_empty(maps, SECOND.value, cells)
    of_first = grad.new_empty(maps, FIRST.value, 4 * cells)
    _normalise_backward[(maps,)](
        grad, kept.raw, kept.statistics, scale, w3, kept.second_slope, of_second, start, cells,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=2 * WARPS, num_stages=1,
    )  # fmt: skip
    blocks = triton.cdiv(cells, BLOCK)
    _second_layer_backward[(maps * 4 * blocks,)](
        of_second, w2, kept.first_slope, of_first, start, width, blocks,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    blocks = triton.cdiv(4 * cells, BLOCK)
    _first_layer_backward[(maps * blocks,)](
        of_first, w1, grad_predicted, grad_target, n, start, width, blocks,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip


@triton.jit
def _first_layer(
    predicted, target, weight, bias, result, slope, n, width, blocks, PRECISION: tl.constexpr, BLOCK: tl.constexpr
):
    program = tl.program_id(0)
    place = program % blocks * BLOCK + tl.arange(0, BLOCK)
    m = (program // blocks).to(tl.int64)
    span, edge = 2 * width, 8 * width  # in blocks, in pixels
    if m < n:  # noqa: SIM108 (Triton has no conditional expression for values of run time)
        tile = predicted + m * edge * edge
    else:
        tile = target + (m - n) * edge * edge
    y, x = place // span, place % span
    pixel, channel = tl.arange(0, 16), tl.arange(0, 16)
    total = tl.zeros([16, BLOCK], tl.float32)
    for tap in range(9):
        block_y = tl.minimum(tl.maximum(y + tap // 3 - 1, 0), span - 1)
        block_x = tl.minimum(tl.maximum(x + tap % 3 - 1, 0), span - 1)
        offset = (block_y * 4 * edge + block_x * 4)[:, None] + (pixel // 4 * edge + pixel % 4)[None, :]
        pixels = tl.load(tile + offset).to(tl.float32)
        w = weight_at(weight + channel[:, None] * 144 + pixel[None, :] * 9 + tap, channel[:, None] < FIRST)
        total = product(w, tl.trans(pixels), total, PRECISION)
    total += weight_at(bias + channel, channel < FIRST)[:, None]
    at = m * FIRST * span * span + channel[:, None] * (span * span) + place[None, :]
    owned = (channel < FIRST)[:, None] & (place < span * span)[None, :]
    tl.store(result + at, silu(total), owned)
    if slope is not None:
        tl.store(slope + at, silu_slope(total), owned)


@triton.jit
def _second_layer(
    first, w2, b2, w3, b3, second_slope, raw, width, blocks, PRECISION: tl.constexpr, BLOCK: tl.constexpr
):
    program = tl.program_id(0)
    cell = program % blocks * BLOCK + tl.arange(0, BLOCK)
    m = (program // blocks).to(tl.int64)
    cells, span = width * width, 2 * width
    first += m * FIRST * 4 * cells
    y, x, inside = cell // width, cell % width, (cell < cells)[None, :]
    source, channel, feature = tl.arange(0, 16), tl.arange(0, 32), tl.arange(0, FEATURES)
    real = (channel < SECOND)[:, None]
    total = tl.zeros([32, BLOCK], tl.float32)
    for tap in range(9):
        block = tl.maximum(2 * y + tap // 3 - 1, 0) * span + tl.maximum(2 * x + tap % 3 - 1, 0)
        hit = (source < FIRST)[:, None] & inside
        values = gather(first, source[:, None] * (4 * cells) + block[None, :], hit)
        w = weight_at(
            w2 + channel[:, None] * (9 * FIRST) + source[None, :] * 9 + tap, real & (source < FIRST)[None, :]
        )  # fmt: skip
        total = product(w, values, total, PRECISION)
    total += weight_at(b2 + channel, channel < SECOND)[:, None]
    if second_slope is not None:
        at = m * SECOND * cells + channel[:, None] * cells + cell[None, :]
        tl.store(second_slope + at, silu_slope(total), real & inside)
    w = weight_at(w3 + feature[:, None] * SECOND + channel[None, :], (channel < SECOND)[None, :])
    values = (
        product(w, silu(total), tl.zeros([FEATURES, BLOCK], tl.float32), PRECISION)
        + weight_at(b3 + feature, feature >= 0)[:, None]
    )
    tl.store(raw + m * FEATURES * cells + feature[:, None] * cells + cell[None, :], values, inside)


@triton.jit
def _normalise(
    raw, scale, shift, statistics, normal, cells, EPS: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    group = tl.program_id(0).to(tl.int64)
    count = OF_GROUP * cells
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
        channel = (group % GROUPS).to(tl.int32) * OF_GROUP + (begin + place) // cells
        value = (tl.load(raw + begin + place, inside, 0) - mean) * deviation
        value = value * weight_at(scale + channel, inside) + weight_at(shift + channel, inside)
        tl.store(normal + begin + place, value, inside)


@triton.jit
def _normalise_backward(
    grad, raw, statistics, scale, w3, second_slope, of_second, start, cells,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program owns a map; on to the second layer, before its SiLU."""
    m = tl.program_id(0).to(tl.int64)
    feature, channel = tl.arange(0, FEATURES), tl.arange(0, 32)
    grad += m * FEATURES * cells
    of_second += m * SECOND * cells
    raw += (m + start) * FEATURES * cells
    second_slope += (m + start) * SECOND * cells
    statistics += (m + start) * (FEATURES // OF_GROUP * 2) + feature // OF_GROUP * 2
    mean, deviation = tl.load(statistics)[:, None], tl.load(statistics + 1)[:, None]
    factor = weight_at(scale + feature, feature >= 0)[:, None]
    total, along = tl.zeros([FEATURES, BLOCK], tl.float32), tl.zeros([FEATURES, BLOCK], tl.float32)
    for begin in range(0, cells, BLOCK):
        cell = begin + tl.arange(0, BLOCK)
        place, inside = feature[:, None] * cells + cell[None, :], (cell < cells)[None, :]
        by_normal = tl.load(grad + place, inside, 0) * factor
        total += by_normal
        along += by_normal * (tl.load(raw + place, inside, 0) - mean) * deviation
    of_mean = _group_sums(tl.sum(total, 1))[:, None] / (OF_GROUP * cells)
    of_deviation = _group_sums(tl.sum(along, 1))[:, None] / (OF_GROUP * cells)
    w = weight_at(w3 + feature[None, :] * SECOND + channel[:, None], (channel < SECOND)[:, None])
    for begin in range(0, cells, BLOCK):
        cell = begin + tl.arange(0, BLOCK)
        place, inside = feature[:, None] * cells + cell[None, :], (cell < cells)[None, :]
        normal = (tl.load(raw + place, inside, 0) - mean) * deviation
        by_raw = deviation * (tl.load(grad + place, inside, 0) * factor - of_mean - normal * of_deviation)
        by_second = product(w, by_raw, tl.zeros([32, BLOCK], tl.float32), PRECISION)
        place, owned = channel[:, None] * cells + cell[None, :], (channel < SECOND)[:, None] & inside
        tl.store(of_second + place, by_second * tl.load(second_slope + place, owned, 0), owned)


@triton.jit
def _second_layer_backward(
    of_second, w2, first_slope, of_first, start, width, blocks, PRECISION: tl.constexpr, BLOCK: tl.constexpr
):
    """A program owns blocks of one parity of y and of x: they were read by the same neighbours."""
    program = tl.program_id(0)
    cell = program % blocks * BLOCK + tl.arange(0, BLOCK)
    odd_y, odd_x = program // blocks % 4 // 2, program // blocks % 2
    m = (program // (4 * blocks)).to(tl.int64)
    cells = width * width
    of_second += m * SECOND * cells
    y, x, inside = cell // width, cell % width, cell < cells
    source, channel = tl.arange(0, 16), tl.arange(0, 32)
    total = tl.zeros([16, BLOCK], tl.float32)
    for tap in range(4):
        ky, from_y, hit_y = _reader(y, tap // 2, odd_y, width)
        kx, from_x, hit_x = _reader(x, tap % 2, odd_x, width)
        hit = (channel < SECOND)[:, None] & (inside & hit_y & hit_x)[None, :]
        grad = gather(of_second, channel[:, None] * cells + (from_y * width + from_x)[None, :], hit)
        w = weight_at(
            w2 + channel[None, :] * (9 * FIRST) + source[:, None] * 9 + (ky * 3 + kx),
            (channel < SECOND)[None, :] & (source < FIRST)[:, None],
        )
        total = product(w, grad, total, PRECISION)
    block = (2 * y + odd_y) * (2 * width) + 2 * x + odd_x
    place, owned = source[:, None] * (4 * cells) + block[None, :], (source < FIRST)[:, None] & inside[None, :]
    slope = gather(first_slope + (m + start) * FIRST * 4 * cells, place, owned)
    scatter(of_first + m * FIRST * 4 * cells, place, total * slope, owned)


@triton.jit
def _reader(cell, second, odd, width):
    """Of block ``2 cell + odd``: the weight that one of its two readers had for it, the reader, and if there is one.

    An odd block has a reader after it and one before; an even one its own cell, whose first weight too if it is the
    border.
    """
    reader = cell + odd * (1 - second)
    return (
        odd * 2 * second + (1 - odd) * (1 - second),
        reader,
        (reader < width) & ((odd + (1 - second) > 0) | (cell == 0)),
    )


@triton.jit
def _first_layer_backward(
    of_first, weight, grad_predicted, grad_target, n, start, width, blocks, PRECISION: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    program = tl.program_id(0)
    place = program % blocks * BLOCK + tl.arange(0, BLOCK)
    m = (program // blocks).to(tl.int64)
    span, edge = 2 * width, 8 * width
    if m + start < n:  # noqa: SIM108 (Triton has no conditional expression for values of run time)
        tile = grad_predicted + (m + start) * edge * edge
    else:
        tile = grad_target + (m + start - n) * edge * edge
    of_first += m * FIRST * span * span
    y, x, inside = place // span, place % span, place < span * span
    pixel, channel = tl.arange(0, 16), tl.arange(0, 16)
    total = tl.zeros([BLOCK, 16], tl.float32)
    for tap in range(9):
        ky, kx = tap // 3, tap % 3
        grad = tl.zeros([16, BLOCK], tl.float32)
        for again_y in tl.static_range(2):  # for the copy beyond the border
            from_y, hit_y = _sender(y, ky, span, again_y)
            for again_x in tl.static_range(2):
                from_x, hit_x = _sender(x, kx, span, again_x)
                hit = (channel < FIRST)[:, None] & (inside & hit_y & hit_x)[None, :]
                grad += gather(of_first, channel[:, None] * (span * span) + (from_y * span + from_x)[None, :], hit)
        w = weight_at(weight + channel[:, None] * 144 + pixel[None, :] * 9 + tap, channel[:, None] < FIRST)
        total = product(tl.trans(grad), w, total, PRECISION)
    offset = (y * 4 * edge + x * 4)[:, None] + (pixel // 4 * edge + pixel % 4)[None, :]
    tl.store(tile + offset, total.to(tile.dtype.element_ty), inside[:, None])


@triton.jit
def _sender(block, k, span, AGAIN: tl.constexpr):
    if AGAIN:
        return block, ((k == 0) & (block == 0)) | ((k == 2) & (block == span - 1))
    else:
        sender = block + 1 - k
        return sender, (sender >= 0) & (sender < span)


@triton.jit
def _group_sums(values):
    """Each channel's value becomes the sum over its group."""
    sums = tl.sum(tl.reshape(values, [FEATURES // OF_GROUP, OF_GROUP]), 1)
    return tl.reshape(tl.broadcast_to(sums[:, None], [FEATURES // OF_GROUP, OF_GROUP]), [FEATURES])
