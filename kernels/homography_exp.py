"""homography_exp: a thread owns a homography, and holds each 3 x 3 matrix as nine float64 numbers in registers."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .memory import VARYING

ROWS, WARPS = 32, 1  # of a program; as rows are few, programs are small, so that they spread over the multiprocessors
# The generators' entries are multiples of these.
UNIT, THIRD = tl.constexpr(1 / math.sqrt(2)), tl.constexpr(1 / (3 * math.sqrt(2)))


def homography_exp(
    a: Tensor,  # [..., 8]
) -> Tensor:
    """``[..., 3, 3]``: the homographies."""
    theta = a.new_empty(*a.shape[:-1], 3, 3)
    rows = a.numel() // 8
    if rows:
        _homography_exp[(triton.cdiv(rows, ROWS),)](a.contiguous(), theta, rows, ROWS=ROWS, num_warps=WARPS)
    return theta


def homography_exp_backward(
    grad: Tensor,  # [..., 3, 3]
    a: Tensor,  # [..., 8]
) -> Tensor:
    """``[..., 8]``: the gradient of ``a``."""
    grad_a = torch.empty(a.shape, dtype=a.dtype, device=a.device)
    rows = a.numel() // 8
    if rows:
        _homography_exp_backward[(triton.cdiv(rows, ROWS),)](
            grad.contiguous(), a.contiguous(), grad_a, rows, ROWS=ROWS, num_warps=WARPS
        )
    return grad_a


@triton.jit(do_not_specialize=VARYING)
def _homography_exp(
    a,  # [rows, 8]
    theta,  # [rows, 3, 3]
    rows,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    result = exponential(_loaded(a + row * 8, row < rows))
    for i in tl.static_range(9):
        _store(theta + row * 9 + i, result[i], row < rows)


@triton.jit
def exponential(a):
    """``exp(A)`` of eight coefficients: ``(exp(A / 32))^32``, the Taylor series of degree 8, then five squarings.

    Both work on ``m = exp - I``, which loses no digits near the identity: the series is ``m = x + x m / 2`` with the
    next order's m, and so on, and ``(I + m)^2 - I = 2 m + m^2``.
    """
    x = _scaled(_algebra(a), 1 / 32)
    m = _scaled(x, 1 / 8)
    for step in range(7):  # Loops that were unrolled would take seconds to compile.
        m = _scaled(_plus_product(x, x, m), 1.0 / tl.cast(7 - step, x[0].dtype))
    for _ in range(5):
        m = _plus_product(_scaled(m, 2), m, m)
    return (m[0] + 1, m[1], m[2], m[3], m[4] + 1, m[5], m[6], m[7], m[8] + 1)


@triton.jit(do_not_specialize=VARYING)
def _homography_exp_backward(
    grad,  # [rows, 3, 3]
    a,  # [rows, 8]
    grad_a,  # [rows, 8]
    rows,
    ROWS: tl.constexpr,
):
    # The derivative of exp at A along E is sum_n 1/n! sum_i A^i E A^(n-1-i), so its adjoint is the derivative at A^T:
    # <d exp(A)[E], G> = <E, d exp(A^T)[G]>, and the gradient of a_k is the inner product of d exp(A^T)[G] and G_k.
    # Dual numbers give that derivative: the forward's steps on x + epsilon d, where epsilon^2 = 0. A product becomes
    # (x + epsilon d) (m + epsilon e) = x m + epsilon (d m + x e). Nothing of the forward needs to be kept.
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    algebra, direction = _algebra(_loaded(a + row * 8, row < rows)), ()
    for i in tl.static_range(9):
        direction += (_load(grad + row * 9 + i, row < rows),)
    x, d = _scaled(_transposed(algebra), 1 / 32), _scaled(direction, 1 / 32)
    m, e = _scaled(x, 1 / 8), _scaled(d, 1 / 8)
    for step in range(7):
        factor = 1.0 / tl.cast(7 - step, tl.float64)
        e = _scaled(_plus_product(_plus_product(d, d, m), x, e), factor)
        m = _scaled(_plus_product(x, x, m), factor)
    for _ in range(5):
        e = _plus_product(_plus_product(_scaled(e, 2), e, m), m, e)
        m = _plus_product(_scaled(m, 2), m, m)
    result = _coefficients(e)
    for k in tl.static_range(8):
        _store(grad_a + row * 8 + k, result[k], row < rows)


@triton.jit
def _loaded(a, inside):
    result = ()
    for k in tl.static_range(8):
        result += (_load(a + k, inside),)
    return result


@triton.jit
def _algebra(a):
    """``sum_k a_k G_k``, where G are the generators of :func:`inverseform_fast.sl3.basis`."""
    rotation, scale, aspect, shear = a[2] * UNIT, a[3] * THIRD, a[4] * UNIT, a[5] * UNIT
    return (
        scale + aspect, shear - rotation, a[0],
        shear + rotation, scale - aspect, a[1],
        a[6] * UNIT, a[7] * UNIT, -2 * scale,
    )  # fmt: skip


@triton.jit
def _coefficients(g):
    """The inner products of g with the generators."""
    return (
        g[2], g[5], (g[3] - g[1]) * UNIT, (g[0] + g[4] - 2 * g[8]) * THIRD,
        (g[0] - g[4]) * UNIT, (g[1] + g[3]) * UNIT, g[6] * UNIT, g[7] * UNIT,
    )  # fmt: skip


@triton.jit
def _load(place, inside):
    return tl.load(place, inside, 0).to(tl.float64)


@triton.jit
def _store(place, value, inside):
    tl.store(place, value.to(tl.float32).to(place.dtype.element_ty), inside)  # in two steps, as torch rounds to 16 bits


@triton.jit
def _plus_product(total, a, b):
    """``total + a b``, of 3 x 3 matrices."""
    result = ()
    for i in tl.static_range(3):
        for j in tl.static_range(3):
            entry = total[3 * i + j]
            for k in tl.static_range(3):
                entry += a[3 * i + k] * b[3 * k + j]
            result += (entry,)
    return result


@triton.jit
def _scaled(a, factor):
    result = ()
    for i in tl.static_range(9):
        result += (a[i] * factor,)
    return result


@triton.jit
def _transposed(a):
    return (a[0], a[3], a[6], a[1], a[4], a[7], a[2], a[5], a[8])
