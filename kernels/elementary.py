"""Elementary functions, and products of matrices, as kernels compute them."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # the interpreter has neither libdevice nor PTX
LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def exp(x):
    """Results below the smallest normal number become 0; that saves three of the five instructions of ``tl.exp``."""
    if INTERPRETED:
        return tl.exp(x)
    else:
        return _instruction("ex2.approx.ftz.f32 $0, $1;", "=f,f", (x * LOG2_E,))


@triton.jit
def log(x):
    """Near 1, where the loss of a confident pixel lies, this is accurate; ``tl.log`` has an absolute error there."""
    if INTERPRETED:
        return tl.log(x)
    else:
        return libdevice.log(x)


@triton.jit
def divide(x, y):
    """``x / y`` for y of ordinary size, in two instructions; ``/`` takes eight to serve denormal and huge y, too."""
    if INTERPRETED:
        return x / y
    else:
        return _instruction("div.approx.ftz.f32 $0, $1, $2;", "=f,f,f", (x, y))


@triton.jit
def floor(x):
    if INTERPRETED:
        return tl.floor(x)
    else:
        return _instruction("cvt.rmi.f32.f32 $0, $1;", "=f,f", (x,))


@triton.jit
def _instruction(TEXT: tl.constexpr, CONSTRAINTS: tl.constexpr, arguments):
    """An instruction of PTX in place of a function of libdevice, which takes 30 ms to link with every kernel."""
    return tl.inline_asm_elementwise(TEXT, CONSTRAINTS, arguments, tl.float32, is_pure=True, pack=1)


@triton.jit
def sigmoids(x):
    """The sigmoids of x and of -x, and ``log(1 + e^-|x|)``, each to full relative accuracy."""
    e = exp(-tl.abs(x))
    large = divide(1.0, 1 + e)
    small = e * large
    s = divide(e, 2 + e)
    s2 = s * s
    # log1p(e) = 2 artanh(s), and s <= 1/3, so the first term that the series leaves out is below 2e-8.
    series = 1 / 9 + s2 * (1 / 11 + s2 * (1 / 13 + s2 / 15))
    log1p = 2 * s * (1 + s2 * (1 / 3 + s2 * (1 / 5 + s2 * (1 / 7 + s2 * series))))
    return tl.where(x >= 0, large, small), tl.where(x >= 0, small, large), log1p


@triton.jit
def silu(x):
    return x * sigmoids(x)[0]


@triton.jit
def softplus(x):
    return tl.maximum(x, 0) + sigmoids(x)[2]


@triton.jit
def silu_derivative(x):
    """By the product rule: ``(x s(x))' = s(x) + x s(x) s(-x)``, where ``s`` is the sigmoid and ``s(-x) = 1 - s(x)``."""
    chance, doubt, _ = sigmoids(x)
    return chance * (1 + x * doubt)


def precision() -> str:
    """The precision of a network's matrix products, which is the one of PyTorch's convolutions."""
    return "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "ieee"  # type: ignore[attr-defined]


@triton.jit
def product(x, y, total, PRECISION: tl.constexpr):
    """``total + x @ y`` in float32, with the ``PRECISION`` of :func:`triton.language.dot`.

    A matrix unit cuts the bits that TF32 lacks, which makes every operand smaller, so they are rounded first.
    """
    if PRECISION == "tf32":
        x, y = rounded_to_tf32(x), rounded_to_tf32(y)
    return tl.dot(x, y, total, input_precision=PRECISION)


@triton.jit
def rounded_to_tf32(x):
    """The nearest number whose fraction has ten bits, the larger one of two; infinity and NaN stay what they are."""
    power = (x.to(tl.int32, bitcast=True) & -0x800000).to(tl.float32, bitcast=True)  # of two, with the sign of x
    return ((x + power * 2.0**-11).to(tl.int32, bitcast=True) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def add_tuples(first, second):
    """Add two tuples entry by entry."""
    result = ()
    for i in tl.static_range(len(first)):
        result += (first[i] + second[i],)
    return result


@triton.jit
def repeated(value, COUNT: tl.constexpr):
    """A tuple of COUNT times the same."""
    result = ()
    for _ in tl.static_range(COUNT):
        result += (value,)
    return result
