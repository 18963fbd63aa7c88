"""align's equations: from the first hidden layer to the coefficients, and back.

A cell measures a displacement d and a lower triangular L with ``W = L L^T``, the information in d. The rows of its
velocity V ``[2, 8]`` say how the coefficients a move it. The least squares of all cells, of both orders of the pair and
of a prior are ``(sum R^T R + prior) a = sum +-R^T m``, where ``R = L^T V`` and ``m = L^T d``; the second order, which
measures the way back, has the minus sign. Each program sums R^T R and R^T m over its cells; then a warp for each tile
adds the programs' sums in a fixed order, and solves the 8 equations in scalars.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ..reference.align import CELL, CELLS_PER_UNIT
from .align_correlation import cells_of_map, correlation_channel
from .align_sizes import (
    CHANNELS,
    CORRELATIONS,
    HIDDEN,
    HIDDEN_PADDED,
    LAST,
    MATCH_GROUPS,
    OUTPUTS,
    SPAN,
    SPAN_PADDED,
    SUMS,
    K,
)
from .elementary import add_tuples, precision, product, sigmoids, silu, silu_derivative, softplus
from .memory import VARYING, gather, weight_at

BLOCK, WARPS = 128, 4  # cells of a program


def solve_equations(
    hidden: Tensor,  # [2 N, 26, cells]
    weights: Sequence[Tensor],  # of the measurement
) -> tuple[Tensor, Tensor]:
    """The coefficients ``[N, 8]`` and the matrix ``[N, 8, 8]``."""
    _, _, w2, b2, w3, b3, prior, velocity = weights
    maps, _, cells = hidden.shape
    n, width, blocks = maps // 2, round(cells**0.5), triton.cdiv(cells, BLOCK)
    sums = hidden.new_empty(maps, blocks, SUMS.value)
    coefficients, matrix = hidden.new_empty(n, K.value), hidden.new_empty(n, K.value, K.value)
    _equations[(maps * blocks,)](
        hidden, w2, b2, w3, b3, velocity, sums, width, _unit(width), blocks,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    _solve[(n,)](sums, prior, coefficients, matrix, n, blocks, num_warps=1)
    return coefficients, matrix


def equations_backward(
    grad: Tensor,  # [N, 8]
    coefficients: Tensor,  # [N, 8]
    matrix: Tensor,  # [N, 8, 8]
    hidden: Tensor,  # [2 N, 26, cells]
    derivative: Tensor | None,  # [2 N, 26, cells]: of the hidden layer's SiLU
    weights: Sequence[Tensor],  # of the measurement
) -> Tensor:
    """``[2 N, 114, cells]``: the gradient of all channels that the first hidden layer read."""
    w1, _, w2, b2, w3, b3, _, velocity = weights
    maps, _, cells = hidden.shape
    n, width, blocks = maps // 2, round(cells**0.5), triton.cdiv(cells, BLOCK)
    grad_last = hidden.new_empty(maps, LAST.value, cells)
    grad_channels = hidden.new_empty(maps, CHANNELS.value, cells)
    _equations_backward[(maps * blocks,)](
        grad, coefficients, matrix, hidden, w2, b2, w3, b3, velocity, grad_last, n, width, _unit(width), blocks,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    _hidden_layers_backward[(maps * blocks,)](
        grad_last, derivative, w2, w1, grad_channels, width, blocks,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    return grad_channels


def _unit(width: int) -> float:
    """How many half tiles a measured displacement of 1 is."""
    return CELLS_PER_UNIT * CELL / (width * CELL / 2)


@triton.jit(do_not_specialize=VARYING)
def _equations(
    hidden,  # [2 N, 26, cells]
    w2,  # [16, 26, 3, 3]
    b2,  # [16]
    w3,  # [5, 16, 1, 1]
    b3,  # [5]
    velocity,  # [cells, 8, 2]
    sums,  # [2 N, blocks, 72]: the matrix [8, 8] and the vector [8] of a program's cells
    width, unit, blocks,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    m, cell, y, x, inside = cells_of_map(width, blocks, BLOCK)
    last = _last_layer(hidden + m * HIDDEN * width * width, w2, b2, cell, y, x, inside, width, PRECISION, BLOCK)
    dx, dy, raw_xx, yx, raw_yy = _outputs(silu(last), w3, b3)
    # Places beyond the last cell have velocity 0, so they add nothing.
    xx, yy = softplus(raw_xx), softplus(raw_yy)
    velocity_x, velocity_y = _velocity(velocity, cell, inside, BLOCK)
    measured_x, measured_y = unit * (xx * dx + yx * dy), unit * (yy * dy)
    row_x, row_y = xx[:, None] * velocity_x + yx[:, None] * velocity_y, yy[:, None] * velocity_y
    matrix = product(tl.trans(row_x), row_x, tl.zeros([K, K], tl.float32), "ieee")
    matrix = product(tl.trans(row_y), row_y, matrix, "ieee")
    vector = tl.sum(row_x * measured_x[:, None] + row_y * measured_y[:, None], 0)
    k = tl.arange(0, K)
    sums += tl.program_id(0).to(tl.int64) * SUMS
    tl.store(sums + k[:, None] * K + k[None, :], matrix)
    tl.store(sums + K * K + k, vector)


@triton.jit(do_not_specialize=VARYING)
def _solve(
    sums,  # [2 N, blocks, 72]
    prior,  # [8]: logarithms of its precision
    coefficients,  # [N, 8]
    matrix,  # [N, 8, 8]
    n, blocks,
):  # fmt: skip
    """Add up the programs' sums and solve the equations. Each thread of the single warp does all of this."""
    tile = tl.program_id(0).to(tl.int64)
    sums, other_sums = sums + tile * blocks * SUMS, sums + (tile + n) * blocks * SUMS
    added, difference = _zeros(K * (K + 1) // 2), _zeros(K)
    for _ in range(blocks):
        more_added, more_difference = _both_orders(sums, other_sums)
        added, difference = add_tuples(added, more_added), add_tuples(difference, more_difference)
        sums += SUMS
        other_sums += SUMS
    entries = ()
    for i in tl.static_range(K):
        for j in tl.static_range(i + 1):
            entry = added[_place(i, j)]
            if i == j:
                entry += tl.exp(tl.load(prior + i).to(tl.float32))
            entries += (entry,)
            tl.store(matrix + tile * (K * K) + (i * K + j), entry)
            tl.store(matrix + tile * (K * K) + (j * K + i), entry)
    solution = solve(entries, difference)
    for i in tl.static_range(K):
        tl.store(coefficients + tile * K + i, solution[i])


@triton.jit(do_not_specialize=VARYING)
def _equations_backward(
    grad,  # [N, 8]: of the coefficients
    coefficients,  # [N, 8]
    matrix,  # [N, 8, 8]
    hidden,  # [2 N, 26, cells]
    w2,  # [16, 26, 3, 3]
    b2,  # [16]
    w3,  # [5, 16, 1, 1]
    b3,  # [5]
    velocity,  # [cells, 8, 2]
    grad_last,  # [2 N, 16, cells]: of the last hidden layer, before its SiLU
    n, width, unit, blocks,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    m, cell, y, x, inside = cells_of_map(width, blocks, BLOCK)
    cells = width * width
    tile, sign = m % n, tl.where(m < n, 1.0, -1.0)
    # With A the symmetric matrix and b the vector, a = A^-1 b. Let l = A^-1 grad: b gets l, and A gets -l a^T.
    entries, incoming = (), ()
    for i in tl.static_range(K):
        incoming += (tl.load(grad + tile * K + i),)
        for j in tl.static_range(i + 1):
            entries += (tl.load(matrix + tile * (K * K) + (i * K + j)),)
    solution = solve(entries, incoming)
    k = tl.arange(0, K)
    grad_vector = tl.zeros([K], tl.float32)
    for i in tl.static_range(K):
        grad_vector = tl.where(k == i, solution[i], grad_vector)
    grad_vector = grad_vector[None, :]
    found = tl.load(coefficients + tile * K + k)[None, :]

    last = _last_layer(hidden + m * HIDDEN * cells, w2, b2, cell, y, x, inside, width, PRECISION, BLOCK)
    dx, dy, raw_xx, yx, raw_yy = _outputs(silu(last), w3, b3)
    xx, yy = softplus(raw_xx), softplus(raw_yy)
    velocity_x, velocity_y = _velocity(velocity, cell, inside, BLOCK)
    found_x, found_y = tl.sum(found * velocity_x, 1), tl.sum(found * velocity_y, 1)
    vector_x, vector_y = tl.sum(grad_vector * velocity_x, 1), tl.sum(grad_vector * velocity_y, 1)
    # A row r of R adds +-r m to b and r r^T to A. So the loss changes with r and m as (r l) (+-m - r a) does with l and
    # a fixed; along and off are its two factors. R has the rows r_x = xx V_x + yx V_y and r_y = yy V_y, and m has
    # m_x = xx dx + yx dy and m_y = yy dy. By the product rule xx gets (V_x l) off_x + along_x miss_x, where miss_x is
    # +-dx - V_x a; yx and yy are alike, and dx gets +-xx along_x. The derivative of softplus is the sigmoid.
    along_x, along_y = xx * vector_x + yx * vector_y, yy * vector_y
    off_x = sign * unit * (xx * dx + yx * dy) - (xx * found_x + yx * found_y)
    off_y = sign * unit * yy * dy - yy * found_y
    miss_x, miss_y = sign * unit * dx - found_x, sign * unit * dy - found_y
    grad_outputs = (
        sign * unit * (xx * along_x),
        sign * unit * (yx * along_x + yy * along_y),
        (vector_x * off_x + along_x * miss_x) * sigmoids(raw_xx)[0],
        vector_y * off_x + along_x * miss_y,
        (vector_y * off_y + along_y * miss_y) * sigmoids(raw_yy)[0],
    )
    channel = tl.arange(0, LAST)
    received = tl.zeros([LAST, BLOCK], tl.float32)
    for i in tl.static_range(OUTPUTS):
        received += weight_at(w3 + i * LAST + channel, channel >= 0)[:, None] * grad_outputs[i][None, :]
    place = m * LAST * cells + channel[:, None] * cells + cell[None, :]
    tl.store(grad_last + place, received * silu_derivative(last), inside[None, :])


@triton.jit(do_not_specialize=VARYING)
def _hidden_layers_backward(
    grad_last,  # [2 N, 16, cells]
    derivative,  # [2 N, 26, cells]: of the first hidden layer's SiLU
    w2,  # [16, 26, 3, 3]
    w1,  # [26, 114, 1, 1]
    grad_channels,  # [2 N, 114, cells]
    width, blocks,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Go back through the 3 x 3 convolution to the first hidden layer, and through the 1 x 1 one to what it read."""
    m, cell, y, x, inside = cells_of_map(width, blocks, BLOCK)
    cells = width * width
    grad_last += m * LAST * cells
    channel, out = tl.arange(0, LAST), tl.arange(0, HIDDEN_PADDED)
    real, sent = (out < HIDDEN)[:, None], channel[:, None] * cells + cell[None, :]
    total = tl.zeros([HIDDEN_PADDED, BLOCK], tl.float32)
    for tap in range(9):
        dy, dx = 1 - tap // 3, 1 - tap % 3  # A cell that was read at an offset sends back from the opposite one.
        hit = inside & (y + dy >= 0) & (y + dy < width) & (x + dx >= 0) & (x + dx < width)
        hit = (channel >= 0)[:, None] & hit[None, :]
        grad = gather(grad_last, sent + (dy * width + dx), hit)
        w = weight_at(w2 + channel[None, :] * (9 * HIDDEN) + out[:, None] * 9 + tap, real)
        total = product(w, grad, total, PRECISION)
    place = m * HIDDEN * cells + out[:, None] * cells + cell[None, :]
    total *= tl.load(derivative + place, real & inside[None, :], 0)
    grad_channels += m * CHANNELS * cells
    column = tl.arange(0, MATCH_GROUPS * SPAN_PADDED)
    for row in range(SPAN + 1):  # The last one is the features.
        read = tl.where(row < SPAN, correlation_channel(row, column), CORRELATIONS + column)
        taken = (row == SPAN) | (column % SPAN_PADDED < SPAN)
        w = weight_at(w1 + out[None, :] * CHANNELS + read[:, None], (out < HIDDEN)[None, :] & taken[:, None])
        grad = product(w, total, tl.zeros([MATCH_GROUPS * SPAN_PADDED, BLOCK], tl.float32), PRECISION)
        tl.store(grad_channels + read[:, None] * cells + cell[None, :], grad, taken[:, None] & inside[None, :])


@triton.jit
def _last_layer(hidden, w2, b2, cell, y, x, inside, width, PRECISION: tl.constexpr, BLOCK: tl.constexpr):
    """The last hidden layer ``[16, cells]`` before its SiLU."""
    cells = width * width
    source, channel = tl.arange(0, HIDDEN_PADDED), tl.arange(0, LAST)
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
    """The displacement x, y, and the entries xx, yx, yy of L, where xx and yy are those before the softplus."""
    channel = tl.arange(0, LAST)
    outputs = ()
    for i in tl.static_range(OUTPUTS):
        w = weight_at(w3 + i * LAST + channel, channel >= 0)[:, None]
        outputs += (tl.sum(w * values, 0) + tl.load(b3 + i).to(tl.float32),)
    return outputs


@triton.jit
def _velocity(velocity, cell, inside, BLOCK: tl.constexpr):
    """Velocities of x and of y, ``[cells, 8]`` each."""
    both = weight_at(velocity + cell[:, None] * (2 * K) + tl.arange(0, 2 * K)[None, :], inside[:, None])
    return tl.split(tl.reshape(both, [BLOCK, K, 2]))


@triton.jit
def _zeros(COUNT: tl.constexpr):
    result = ()
    for _ in tl.static_range(COUNT):
        result += (tl.cast(0, tl.float32),)
    return result


@triton.jit
def _both_orders(sums, other_sums):
    """The lower half of the sum of both matrices, row by row, and the difference of the vectors."""
    added, difference = (), ()
    for i in tl.static_range(K):
        difference += (tl.load(sums + K * K + i) - tl.load(other_sums + K * K + i),)
        for j in tl.static_range(i + 1):
            added += (tl.load(sums + (i * K + j)) + tl.load(other_sums + (i * K + j)),)
    return added, difference


@triton.constexpr_function
def _place(i, j):
    """Where the entry (i, j) of a symmetric matrix is in its lower half, row by row."""
    return i * (i + 1) // 2 + j


@triton.jit
def solve(entries, vector):
    """Solve the symmetric equations by ``L D L^T``. The opposite vector gives exactly the opposite solution."""
    factor, scaled, pivots = (), (), ()  # L, L D, and the reciprocals of D
    for i in tl.static_range(K):
        for j in tl.static_range(i + 1):
            entry = entries[_place(i, j)]
            for k in tl.static_range(j):
                entry -= scaled[_place(i, k)] * factor[_place(j, k)]
            if i == j:
                pivots += (tl.div_rn(1.0, entry),)
            scaled += (entry,)
            factor += (entry * pivots[j],)
    halfway = ()
    for i in tl.static_range(K):
        value = vector[i]
        for k in tl.static_range(i):
            value -= scaled[_place(i, k)] * halfway[k]
        halfway += (value * pivots[i],)
    solution = ()  # from the last coefficient to the first
    for back in tl.static_range(K):
        value = halfway[K - 1 - back]
        for k in tl.static_range(back):  # The coefficient K - 1 - k is known.
            value -= factor[_place(K - 1 - k, K - 1 - back)] * solution[k]
        solution += (value,)
    ordered = ()
    for i in tl.static_range(K):
        ordered += (solution[K - 1 - i],)
    return ordered
