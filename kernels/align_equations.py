"""align's equations: from the first hidden layer to the coefficients, and back.

A cell measures a displacement d and a lower triangular L with ``W = L L^T``, the information in d. The rows of its
velocity V ``[2, 8]`` say how the coefficients a move it. The least squares of all cells, of both orders of the pair and
of a prior are ``(sum R^T R + prior) a = sum +-R^T m``, where ``R = L^T V`` and ``m = L^T d``; the second order, which
measures the way back, has the minus sign. Each program sums R^T R and R^T m over its cells; then a warp for each tile
adds the programs' sums in a fixed order, and solves the 8 equations.
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
    OUTPUTS_PADDED,
    SPAN,
    SPAN_PADDED,
    SUMS,
    K,
)
from .elementary import precision, product, sigmoids, silu, silu_derivative, softplus
from .memory import VARYING, gather, weight_at

BLOCK, WARPS = 128, tl.constexpr(4)  # cells of a program


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
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS.value, num_stages=1,
    )  # fmt: skip
    _solve[(n,)](sums, prior, coefficients, matrix, n, blocks, num_warps=1)
    return coefficients, matrix


def equations_backward(
    grad: Tensor,  # [N, 8]
    coefficients: Tensor,  # [N, 8]
    matrix: Tensor,  # [N, 8, 8]
    hidden: Tensor,  # [2 N, 26, cells]
    linear: Tensor,  # [2 N, 26, cells]: the hidden layer before its SiLU
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
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS.value, num_stages=1,
    )  # fmt: skip
    _hidden_layers_backward[(maps * blocks,)](
        grad_last, linear, w2, w1, grad_channels, width, blocks,
        PRECISION=precision(), BLOCK=BLOCK, num_warps=WARPS.value, num_stages=1,
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
    matrix = _products(row_x, _products(row_y, tl.zeros([WARPS, K, K], tl.float32)))
    vector = tl.sum(row_x * measured_x[:, None] + row_y * measured_y[:, None], 0)
    k = tl.arange(0, K)
    sums += tl.program_id(0).to(tl.int64) * SUMS
    tl.store(sums + k[:, None] * K + k[None, :], tl.sum(matrix, 0))
    tl.store(sums + K * K + k, vector)


@triton.jit(do_not_specialize=VARYING)
def _solve(
    sums,  # [2 N, blocks, 72]
    prior,  # [8]: logarithms of its precision
    coefficients,  # [N, 8]
    matrix,  # [N, 8, 8]
    n, blocks,
):  # fmt: skip
    """Add up the programs' sums and solve the equations."""
    tile = tl.program_id(0).to(tl.int64)
    row, column = tl.arange(0, K)[:, None], tl.arange(0, 2 * K)[None, :]
    there, back = sums + tile * blocks * SUMS, sums + (tile + n) * blocks * SUMS
    place, sign = tl.where(column < K, row * K + column, K * K + row), tl.where(column < K, 1.0, -1.0)
    equations = tl.where(row == column, tl.exp(weight_at(prior + row, row >= 0)), 0.0)
    for block in range(blocks):
        entry = block * SUMS + place
        equations += tl.load(there + entry, column <= K, 0) + sign * tl.load(back + entry, column <= K, 0)
    tl.store(matrix + tile * (K * K) + place, equations, column < K)
    tl.store(coefficients + tile * K + tl.arange(0, K), _solved(equations))


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
    row, column = tl.arange(0, K)[:, None], tl.arange(0, 2 * K)[None, :]
    equations = tl.load(matrix + tile * (K * K) + (row * K + column), column < K, 0)
    equations += tl.load(grad + tile * K + row, column == K, 0)
    grad_vector = _solved(equations)[None, :]
    k = tl.arange(0, K)
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
    linear,  # [2 N, 26, cells]: the first hidden layer before its SiLU
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
    total *= silu_derivative(tl.load(linear + place, real & inside[None, :], 0))
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
    channel, output = tl.arange(0, LAST), tl.arange(0, OUTPUTS_PADDED)
    w = weight_at(w3 + output[None, :] * LAST + channel[:, None], (output < OUTPUTS)[None, :])
    outputs = product(tl.trans(values), w, tl.zeros([values.shape[1], OUTPUTS_PADDED], tl.float32), "ieee")
    dx, dy, xx, yx, yy, _, _, _ = _columns(outputs + weight_at(b3 + output, output < OUTPUTS)[None, :])
    return dx, dy, xx, yx, yy


@triton.jit
def _columns(x):
    """The eight columns of ``x [rows, 8]``."""
    parts = (x,)
    for i in tl.static_range(3):
        halves = ()
        for j in tl.static_range(len(parts)):
            first, second = tl.split(tl.permute(tl.reshape(parts[j], [x.shape[0], 2, 4 >> i]), 0, 2, 1))
            halves += (first, second)
        parts = halves
    columns = ()
    for j in tl.static_range(len(parts)):
        columns += (tl.ravel(parts[j]),)
    return columns


@triton.jit
def _products(rows, total):
    """Add ``r r^T`` of all rows r to the ``total [warps, 8, 8]``; each warp adds up a part of the rows."""
    part = tl.reshape(rows, [WARPS, rows.shape[0] // WARPS, K])
    return product(tl.trans(part, 0, 2, 1), part, total, "ieee")


@triton.jit
def _velocity(velocity, cell, inside, BLOCK: tl.constexpr):
    """Velocities of x and of y, ``[cells, 8]`` each."""
    both = weight_at(velocity + cell[:, None] * (2 * K) + tl.arange(0, 2 * K)[None, :], inside[:, None])
    return tl.split(tl.reshape(both, [BLOCK, K, 2]))


@triton.jit
def _solved(equations):
    """Solve symmetric equations ``[8, 16]``, the matrix and then the vector, by Gauss and Jordan's elimination.

    The opposite vector gives exactly the opposite solution. The matrix is positive definite, so its order will do.
    """
    row, column = tl.arange(0, K)[:, None], tl.arange(0, 2 * K)[None, :]
    for k in range(K):
        of_row = tl.sum(tl.where(row == k, equations, 0.0), 0)[None, :]
        of_column = tl.sum(tl.where(column == k, equations, 0.0), 1)[:, None]
        pivot = tl.sum(tl.where((row == k) & (column == k), equations, 0.0))
        of_row = of_row * tl.div_rn(1.0, pivot)
        equations = tl.where(row == k, of_row, equations - of_column * of_row)
    return tl.sum(tl.where(column == K, equations, 0.0), 1)
