"""homography_exp: a thread owns a homography; its matrices are nine float64 numbers each, in registers."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, WARPS = 32, 1  # of a program: there are few rows, so that every one is a thread of its own
# What the generators' entries are multiples of
UNIT, THIRD = tl.constexpr(1 / math.sqrt(2)), tl.constexpr(1 / (3 * math.sqrt(2)))


def homography_exp(a: Tensor) -> Tensor:
    """``(..., 8)`` to ``(..., 3, 3)``."""
    theta = a.new_empty(*a.shape[:-1], 3, 3)
    rows = a.numel() // 8
    if rows:
        _homography_exp[(triton.cdiv(rows, ROWS),)](a.contiguous(), theta, rows, ROWS=ROWS, num_warps=WARPS)
    return theta


def homography_exp_backward(grad: Tensor, a: Tensor) -> Tensor:
    """Gradient of ``a``."""
    grad_a = torch.empty(a.shape, dtype=a.dtype, device=a.device)
    rows = a.numel() // 8
    if rows:
        _homography_exp_backward[(triton.cdiv(rows, ROWS),)](
            grad.contiguous(), a.contiguous(), grad_a, rows, ROWS=ROWS, num_warps=WARPS
        )
    return grad_a


@triton.jit
def _homography_exp(a, theta, rows, ROWS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    x = _scaled(_algebra(a + row * 8, row < rows), 1 / 32)
    series = _plus_identity(_scaled(x, 1 / 8))
    for order in tl.static_range(7, 1, -1):
        series = _plus_identity(_scaled(_product(x, series), 1 / order))
    minus_one = _product(x, series)
    for _ in tl.static_range(5):
        minus_one = _sum(_scaled(minus_one, 2), _product(minus_one, minus_one))
    result = _plus_identity(minus_one)
    for i in tl.static_range(9):
        _store(theta + row * 9 + i, result[i], row < rows)


@triton.jit
def _homography_exp_backward(grad, a, grad_a, rows, ROWS: tl.constexpr):
    """The adjoint of exp's derivative at A is its derivative at A^T: the forward on x + epsilon d, epsilon^2 = 0."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    algebra, direction = _algebra(a + row * 8, row < rows), ()
    for i in tl.static_range(9):
        direction += (tl.load(grad + row * 9 + i, row < rows, 0).to(tl.float64),)
    x, d = _scaled(_transposed(algebra), 1 / 32), _scaled(direction, 1 / 32)
    series, by_series = _plus_identity(_scaled(x, 1 / 8)), _scaled(d, 1 / 8)
    for order in tl.static_range(7, 1, -1):
        by_series = _scaled(_sum(_product(d, series), _product(x, by_series)), 1 / order)
        series = _plus_identity(_scaled(_product(x, series), 1 / order))
    by = _sum(_product(d, series), _product(x, by_series))
    minus_one = _product(x, series)
    for _ in tl.static_range(5):
        by = _sum(_scaled(by, 2), _sum(_product(by, minus_one), _product(minus_one, by)))
        minus_one = _sum(_scaled(minus_one, 2), _product(minus_one, minus_one))
    result = _coefficients(by)
    for k in tl.static_range(8):
        _store(grad_a + row * 8 + k, result[k], row < rows)


@triton.jit
def _algebra(a, inside):
    """``sum_k a_k G_k``, the generators as :func:`inverseform_fast.sl3.basis` has them."""
    shift_x, shift_y = _load(a, inside), _load(a + 1, inside)
    rotation, shear = _load(a + 2, inside) * UNIT, _load(a + 5, inside) * UNIT
    scale, aspect = _load(a + 3, inside) * THIRD, _load(a + 4, inside) * UNIT
    return (
        scale + aspect, shear - rotation, shift_x,
        shear + rotation, scale - aspect, shift_y,
        _load(a + 6, inside) * UNIT, _load(a + 7, inside) * UNIT, -2 * scale,
    )  # fmt: skip


@triton.jit
def _coefficients(g):
    """Inner products with the generators."""
    return (
        g[2], g[5], (g[3] - g[1]) * UNIT, (g[0] + g[4] - 2 * g[8]) * THIRD,
        (g[0] - g[4]) * UNIT, (g[1] + g[3]) * UNIT, g[6] * UNIT, g[7] * UNIT,
    )  # fmt: skip


@triton.jit
def _load(place, inside):
    return tl.load(place, inside, 0).to(tl.float64)


@triton.jit
def _store(place, value, inside):
    tl.store(place, value.to(tl.float32).to(place.dtype.element_ty), inside)  # as torch rounds to 16 bits


@triton.jit
def _product(a, b):
    result = ()
    for i in tl.static_range(3):
        for j in tl.static_range(3):
            result += (a[3 * i] * b[j] + a[3 * i + 1] * b[3 + j] + a[3 * i + 2] * b[6 + j],)
    return result


@triton.jit
def _sum(a, b):
    result = ()
    for i in tl.static_range(9):
        result += (a[i] + b[i],)
    return result


@triton.jit
def _scaled(a, factor):
    result = ()
    for i in tl.static_range(9):
        result += (a[i] * factor,)
    return result


@triton.jit
def _plus_identity(a):
    return (a[0] + 1, a[1], a[2], a[3], a[4] + 1, a[5], a[6], a[7], a[8] + 1)


@triton.jit
def _transposed(a):
    return (a[0], a[3], a[6], a[1], a[4], a[7], a[2], a[5], a[8])
