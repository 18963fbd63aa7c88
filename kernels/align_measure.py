"""align's measurement and its equations: from the features of both sides to the coefficients, and back.

The measurement of map m is that of its own features against those of map m + N, modulo 2 N: of both orders in one
launch, by the same arithmetic. Each program sums the equations of its cells, and a last one, of one warp a tile, adds
those sums in a fixed order and solves: 8 x 8 in scalars.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.align import CELL, CELLS_PER_UNIT, GROUPS, REACH
from .elementary import precision, product, sigmoids, silu, silu_slope
from .memory import gather, weight_at

BLOCK, WARPS = 128, 4  # cells of a program
SPAN = tl.constexpr(2 * REACH + 1)
OFFSETS = tl.constexpr(GROUPS * SPAN.value**2)  # channels of the correlation
FEATURES, HIDDEN, LAST = tl.constexpr(16), tl.constexpr(26), tl.constexpr(16)  # channels
OF_GROUP = tl.constexpr(FEATURES.value // GROUPS)
CHANNELS = tl.constexpr(OFFSETS.value + FEATURES.value)  # that the measurement reads
SUMS = tl.constexpr(72)  # of a program: the matrix, then the vector


def compare(normal: Tensor, weights: Sequence[Tensor], for_backward: bool) -> tuple[Tensor, Tensor | None]:
    """The first hidden layer ``(2 N, 26, cells)``, of correlation and features, and the slope of its SiLU."""
    maps, _, cells = normal.shape
    blocks = triton.cdiv(cells, BLOCK)
    hidden = normal.new_empty(maps, HIDDEN.value, cells)
    slope = torch.empty_like(hidden) if for_backward else None
    _compare[(maps * blocks,)](
        normal, weights[0], weights[1], hidden, slope, maps // 2, round(cells**0.5), blocks,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    return hidden, slope


def solve(hidden: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The coefficients and the matrix."""
    _, _, w2, b2, w3, b3, prior, velocity = weights
    maps, _, cells = hidden.shape
    n, width, blocks = maps // 2, round(cells**0.5), triton.cdiv(cells, BLOCK)
    sums = hidden.new_empty(maps, blocks, SUMS.value)
    found, matrix = hidden.new_empty(n, 8), hidden.new_empty(n, 8, 8)
    _measure[(maps * blocks,)](
        hidden, w2, b2, w3, b3, velocity, sums, width, _unit(width), blocks,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    _solve[(n,)](sums, prior, found, matrix, n, blocks, num_warps=1)
    return found, matrix


def measure_backward(
    grad: Tensor, found: Tensor, matrix: Tensor, normal: Tensor, hidden: Tensor, slope: Tensor | None,
    weights: Sequence[Tensor], start: int, count: int,
) -> Tensor:  # fmt: skip
    """Gradient of the features of the ``count`` maps from ``start`` on."""
    w1, _, w2, b2, w3, b3, _, velocity = weights
    maps, _, cells = hidden.shape
    n, width, blocks = maps // 2, round(cells**0.5), triton.cdiv(cells, BLOCK)
    of_last = hidden.new_empty(maps, LAST.value, cells)
    of_channels = hidden.new_empty(maps, CHANNELS.value, cells)
    of_normal = hidden.new_empty(count, FEATURES.value, cells)
    _measure_backward[(maps * blocks,)](
        grad, found, matrix, hidden, w2, b2, w3, b3, velocity, of_last, n, width, _unit(width), blocks,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    _hidden_backward[(maps * blocks,)](
        of_last, slope, w2, w1, of_channels, width, blocks,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    _compare_backward[(count * blocks,)](
        of_channels, normal, of_normal, n, start, width, blocks, BLOCK=BLOCK, num_warps=WARPS, num_stages=1
    )  # fmt: skip
    return of_normal


def _unit(width: int) -> float:
    """A measured displacement of one, in half tiles."""
    return CELLS_PER_UNIT * CELL / (width * CELL / 2)


@triton.jit
def _compare(normal, w1, b1, hidden, slope, n, width, blocks, PRECISION: tl.constexpr, BLOCK: tl.constexpr):
    m, cell, y, x, inside = _cells(width, blocks, BLOCK)
    cells = width * width
    own, other = normal + m * FEATURES * cells, normal + (m + n) % (2 * n) * FEATURES * cells
    out, feature, column = tl.arange(0, 32), tl.arange(0, FEATURES), tl.arange(0, 16)
    group, dx = tl.arange(0, 2)[:, None, None], tl.arange(0, 8)[None, :, None] - SPAN // 2
    own_at, at = group * OF_GROUP * cells + cell[None, None, :], (group * OF_GROUP * cells + dx) + cell[None, None, :]
    hit_x = (dx <= SPAN // 2) & (x[None, None, :] + dx >= 0) & (x[None, None, :] + dx < width)
    values = tl.load(own + feature[:, None] * cells + cell[None, :], inside[None, :], 0)
    w = weight_at(w1 + out[:, None] * CHANNELS + OFFSETS + feature[None, :], (out < HIDDEN)[:, None])
    total = product(w, values, tl.zeros([32, BLOCK], tl.float32), PRECISION)
    for row in range(SPAN):
        dy = row - SPAN // 2
        hit_y = inside & (y + dy >= 0) & (y + dy < width)
        correlation = tl.zeros([2, 8, BLOCK], tl.float32)
        for c in range(OF_GROUP):
            here = tl.load(own + (own_at + c * cells), inside[None, None, :], 0)
            there = tl.load(other + (at + (c * cells + dy * width)), hit_x & hit_y[None, None, :], 0)
            correlation += here * there
        w = weight_at(
            w1 + out[:, None] * CHANNELS + _channel(row, column)[None, :],
            (out < HIDDEN)[:, None] & (column % 8 < SPAN)[None, :],
        )
        total = product(w, tl.reshape(correlation / OF_GROUP, [16, BLOCK]), total, PRECISION)
    total += weight_at(b1 + out, out < HIDDEN)[:, None]
    owned = (out < HIDDEN)[:, None] & inside[None, :]
    place = m * HIDDEN * cells + out[:, None] * cells + cell[None, :]
    tl.store(hidden + place, silu(total), owned)
    if slope is not None:
        tl.store(slope + place, silu_slope(total), owned)


@triton.jit
def _measure(hidden, w2, b2, w3, b3, velocity, sums, width, unit, blocks, PRECISION: tl.constexpr, BLOCK: tl.constexpr):
    m, cell, y, x, inside = _cells(width, blocks, BLOCK)
    last = _last(hidden + m * HIDDEN * width * width, w2, b2, cell, y, x, inside, width, PRECISION, BLOCK)
    dx, dy, raw_xx, yx, raw_yy = _outputs(silu(last), w3, b3)
    # What lies beyond the last cell has no velocity, and adds nothing.
    xx, yy = _softplus(raw_xx), _softplus(raw_yy)
    velocity_x, velocity_y = _velocity(velocity, cell, inside, BLOCK)
    measured_x, measured_y = unit * (xx * dx + yx * dy), unit * (yy * dy)
    row_x, row_y = xx[:, None] * velocity_x + yx[:, None] * velocity_y, yy[:, None] * velocity_y
    matrix = product(tl.trans(row_x), row_x, tl.zeros([8, 8], tl.float32), "ieee")
    matrix = product(tl.trans(row_y), row_y, matrix, "ieee")
    vector = tl.sum(row_x * measured_x[:, None] + row_y * measured_y[:, None], 0)
    k = tl.arange(0, 8)
    sums += tl.program_id(0).to(tl.int64) * SUMS
    tl.store(sums + k[:, None] * 8 + k[None, :], matrix)
    tl.store(sums + 64 + k, vector)


@triton.jit
def _solve(sums, prior, found, matrix, n, blocks):
    """Each thread of the one warp does all of it."""
    tile = tl.program_id(0).to(tl.int64)
    sums, other_sums = sums + tile * blocks * SUMS, sums + (tile + n) * blocks * SUMS
    added, difference = _both(sums, other_sums)
    for _ in range(1, blocks):
        sums += SUMS
        other_sums += SUMS
        more_added, more_difference = _both(sums, other_sums)
        added, difference = _sum(added, more_added, 36), _sum(difference, more_difference, 8)
    entries = ()
    for i in tl.static_range(8):
        for j in tl.static_range(i + 1):
            entry = added[i * (i + 1) // 2 + j]
            if i == j:
                entry += tl.exp(tl.load(prior + i).to(tl.float32))
            entries += (entry,)
            tl.store(matrix + tile * 64 + (i * 8 + j), entry)
            tl.store(matrix + tile * 64 + (j * 8 + i), entry)
    solution = _solution(entries, difference)
    for i in tl.static_range(8):
        tl.store(found + tile * 8 + i, solution[i])


@triton.jit
def _measure_backward(
    grad, found, matrix, hidden, w2, b2, w3, b3, velocity, of_last, n, width, unit, blocks,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """On to the last hidden layer, before its SiLU.

    With ``l`` the matrix's inverse times grad, the vector's gradient is l, or -l in the second order, and that of the
    matrix ``-l found^T``. Both reach a cell by way of four products of its velocity only.
    """
    m, cell, y, x, inside = _cells(width, blocks, BLOCK)
    cells = width * width
    tile, sign = m % n, tl.where(m < n, 1.0, -1.0)
    entries, incoming = (), ()
    for i in tl.static_range(8):
        incoming += (tl.load(grad + tile * 8 + i),)
        for j in tl.static_range(i + 1):
            entries += (tl.load(matrix + tile * 64 + (i * 8 + j)),)
    solution = _solution(entries, incoming)
    k = tl.arange(0, 8)
    by_vector = tl.zeros([8], tl.float32)
    for i in tl.static_range(8):
        by_vector = tl.where(k == i, solution[i], by_vector)
    by_vector = by_vector[None, :]
    coefficients = tl.load(found + tile * 8 + k)[None, :]

    last = _last(hidden + m * HIDDEN * cells, w2, b2, cell, y, x, inside, width, PRECISION, BLOCK)
    dx, dy, raw_xx, yx, raw_yy = _outputs(silu(last), w3, b3)
    xx, yy = _softplus(raw_xx), _softplus(raw_yy)
    velocity_x, velocity_y = _velocity(velocity, cell, inside, BLOCK)
    found_x, found_y = tl.sum(coefficients * velocity_x, 1), tl.sum(coefficients * velocity_y, 1)
    by_x, by_y = tl.sum(by_vector * velocity_x, 1), tl.sum(by_vector * velocity_y, 1)
    # How far the measured is from the found, either as it comes and along by_vector, of each of the two rows.
    along_x, along_y = xx * by_x + yx * by_y, yy * by_y
    off_x = sign * unit * (xx * dx + yx * dy) - (xx * found_x + yx * found_y)
    off_y = sign * unit * yy * dy - yy * found_y
    miss_x, miss_y = sign * unit * dx - found_x, sign * unit * dy - found_y
    of_outputs = (
        sign * unit * (xx * along_x),
        sign * unit * (yx * along_x + yy * along_y),
        (by_x * off_x + along_x * miss_x) * sigmoids(raw_xx)[0],
        by_y * off_x + along_x * miss_y,
        (by_y * off_y + along_y * miss_y) * sigmoids(raw_yy)[0],
    )
    channel = tl.arange(0, LAST)
    received = tl.zeros([LAST, BLOCK], tl.float32)
    for i in tl.static_range(5):
        received += weight_at(w3 + i * LAST + channel, channel >= 0)[:, None] * of_outputs[i][None, :]
    place = m * LAST * cells + channel[:, None] * cells + cell[None, :]
    tl.store(of_last + place, received * silu_slope(last), inside[None, :])


@triton.jit
def _hidden_backward(of_last, slope, w2, w1, of_channels, width, blocks, PRECISION: tl.constexpr, BLOCK: tl.constexpr):
    """To the first hidden layer, and on to all channels that it read."""
    m, cell, y, x, inside = _cells(width, blocks, BLOCK)
    cells = width * width
    of_last += m * LAST * cells
    channel, out = tl.arange(0, LAST), tl.arange(0, 32)
    real, sent = (out < HIDDEN)[:, None], channel[:, None] * cells + cell[None, :]
    total = tl.zeros([32, BLOCK], tl.float32)
    for tap in range(9):
        dy, dx = 1 - tap // 3, 1 - tap % 3
        hit = inside & (y + dy >= 0) & (y + dy < width) & (x + dx >= 0) & (x + dx < width)
        hit = (channel >= 0)[:, None] & hit[None, :]
        grad = gather(of_last, sent + (dy * width + dx), hit)
        w = weight_at(w2 + channel[None, :] * (9 * HIDDEN) + out[:, None] * 9 + tap, real)
        total = product(w, grad, total, PRECISION)
    place = m * HIDDEN * cells + out[:, None] * cells + cell[None, :]
    total *= tl.load(slope + place, real & inside[None, :], 0)
    of_channels += m * CHANNELS * cells
    column = tl.arange(0, 16)
    for row in range(SPAN + 1):  # the last: of the features
        read = tl.where(row < SPAN, _channel(row, column), OFFSETS + column)
        taken = (row == SPAN) | (column % 8 < SPAN)
        w = weight_at(w1 + out[None, :] * CHANNELS + read[:, None], (out < HIDDEN)[None, :] & taken[:, None])
        grad = product(w, total, tl.zeros([16, BLOCK], tl.float32), PRECISION)
        tl.store(of_channels + read[:, None] * cells + cell[None, :], grad, taken[:, None] & inside[None, :])


@triton.jit
def _compare_backward(of_channels, normal, of_normal, n, start, width, blocks, BLOCK: tl.constexpr):
    """What a map's features did as the first of one order and as the second of the other."""
    m, cell, y, x, inside = _cells(width, blocks, BLOCK)
    cells = width * width
    of_normal += m * FEATURES * cells
    m += start
    other = (m + n) % (2 * n)
    normal += other * FEATURES * cells
    as_first, as_second = of_channels + m * CHANNELS * cells, of_channels + other * CHANNELS * cells
    group, c = tl.arange(0, 2)[:, None, None], tl.arange(0, 8)[None, :, None]
    at = cell[None, None, :]
    total = tl.zeros([2, 8, BLOCK], tl.float32)
    for row in range(SPAN):
        dy = row - SPAN // 2
        hit_y = inside & (y + dy >= 0) & (y + dy < width)
        for column in range(SPAN):
            dx, offset = column - SPAN // 2, row * SPAN + column
            there, opposite = at + (dy * width + dx), SPAN * SPAN - 1 - offset
            hit = (hit_y & (x + dx >= 0) & (x + dx < width))[None, None, :]
            grad = tl.load(as_first + (group * (SPAN * SPAN) + offset) * cells + at, hit, 0)
            grad += tl.load(as_second + (group * (SPAN * SPAN) + opposite) * cells + there, hit, 0)
            total += grad * tl.load(normal + (group * OF_GROUP + c) * cells + there, hit, 0)
    place = (group * OF_GROUP + c) * cells + at
    owned = inside[None, None, :]
    total = total / OF_GROUP + tl.load(as_first + OFFSETS * cells + place, owned, 0)
    tl.store(of_normal + place, total, owned)


@triton.jit
def _cells(width, blocks, BLOCK: tl.constexpr):
    """Map (int64) and cells of a program."""
    program = tl.program_id(0)
    cell = program % blocks * BLOCK + tl.arange(0, BLOCK)
    return (program // blocks).to(tl.int64), cell, cell // width, cell % width, cell < width * width


@triton.jit
def _channel(row, column):
    """Channel of the correlation, of 2 groups by 8 columns of which the last is none."""
    return column // 8 * (SPAN * SPAN) + row * SPAN + column % 8


@triton.jit
def _last(hidden, w2, b2, cell, y, x, inside, width, PRECISION: tl.constexpr, BLOCK: tl.constexpr):
    """The last hidden layer before its SiLU."""
    cells = width * width
    source, channel = tl.arange(0, 32), tl.arange(0, LAST)
    place = source[:, None] * cells + cell[None, :]
    total = tl.zeros([LAST, BLOCK], tl.float32)
    for tap in range(9):
        dy, dx = tap // 3 - 1, tap % 3 - 1
        hit = inside & (y + dy >= 0) & (y + dy < width) & (x + dx >= 0) & (x + dx < width)
        hit = (source < HIDDEN)[:, None] & hit[None, :]
        values = gather(hidden, place + (dy * width + dx), hit)
        w = weight_at(w2 + channel[:, None] * (9 * HIDDEN) + source[None, :] * 9 + tap, (source < HIDDEN)[None, :])
        total = product(w, values, total, PRECISION)
    return total + weight_at(b2 + channel, channel >= 0)[:, None]


@triton.jit
def _outputs(values, w3, b3):
    """The displacement, and the factor of its information before the softplus."""
    channel = tl.arange(0, LAST)
    outputs = ()
    for i in tl.static_range(5):
        w = weight_at(w3 + i * LAST + channel, channel >= 0)[:, None]
        outputs += (tl.sum(w * values, 0) + tl.load(b3 + i).to(tl.float32),)
    return outputs


@triton.jit
def _velocity(velocity, cell, inside, BLOCK: tl.constexpr):
    """Of x and of y, (cells, 8)."""
    both = weight_at(velocity + cell[:, None] * 16 + tl.arange(0, 16)[None, :], inside[:, None])
    return tl.split(tl.reshape(both, [BLOCK, 8, 2]))


@triton.jit
def _softplus(x):
    return tl.maximum(x, 0) + sigmoids(x)[2]


@triton.jit
def _both(sums, other_sums):
    """Lower half of the two matrices' sum, row by row, and the difference of the vectors."""
    added, difference = (), ()
    for i in tl.static_range(8):
        difference += (tl.load(sums + 64 + i) - tl.load(other_sums + 64 + i),)
        for j in tl.static_range(i + 1):
            added += (tl.load(sums + (i * 8 + j)) + tl.load(other_sums + (i * 8 + j)),)
    return added, difference


@triton.jit
def _sum(values, others, COUNT: tl.constexpr):
    result = ()
    for i in tl.static_range(COUNT):
        result += (values[i] + others[i],)
    return result


@triton.jit
def _solution(entries, vector):
    """Of the symmetric equations, by ``L D L^T``; turns its sign exactly with the vector's."""
    factor, pivots = (), ()  # L D, and the reciprocals of D
    for i in tl.static_range(8):
        for j in tl.static_range(i + 1):
            entry = entries[i * (i + 1) // 2 + j]
            for k in tl.static_range(j):
                entry -= factor[i * (i + 1) // 2 + k] * (factor[j * (j + 1) // 2 + k] * pivots[k])
            factor += (entry,)
            if i == j:
                pivots += (tl.div_rn(1.0, entry),)
    halfway = ()
    for i in tl.static_range(8):
        value = vector[i]
        for k in tl.static_range(i):
            value -= factor[i * (i + 1) // 2 + k] * halfway[k]
        halfway += (value * pivots[i],)
    solution = ()  # from the last on
    for back in tl.static_range(8):
        value = halfway[7 - back]
        for k in tl.static_range(back):  # of the coefficient 7 - k
            value -= factor[(7 - k) * (8 - k) // 2 + (7 - back)] * pivots[7 - back] * solution[k]
        solution += (value,)
    ordered = ()
    for i in tl.static_range(8):
        ordered += (solution[7 - i],)
    return ordered
