"""Elementary functions as kernels use them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # the interpreter has no libdevice


@triton.jit
def exp(x):
    """Results below the smallest normal number become 0, which saves three of ``tl.exp``'s five instructions."""
    if INTERPRETED:
        return tl.exp(x)
    else:
        return libdevice.fast_expf(x)


@triton.jit
def log(x):
    """Exact to the last bits near 1, too, where ``tl.log`` has an absolute error: a sure pixel's loss lies there."""
    if INTERPRETED:
        return tl.log(x)
    else:
        return libdevice.log(x)


@triton.jit
def divide(x, y):
    """For y of ordinary size: two instructions for the eight that also serve denormal and huge ones."""
    if INTERPRETED:
        return x / y
    else:
        return libdevice.fast_dividef(x, y)


@triton.jit
def sigmoids(x):
    """Sigmoid of x and of -x, and ``log(1 + e^-|x|)``, each to full relative accuracy."""
    e = exp(-tl.abs(x))
    large = divide(1.0, 1 + e)
    small = e * large
    s = divide(e, 2 + e)
    s2 = s * s
    # log1p(e) = 2 artanh(s); s <= 1/3, so the next term is below 2e-8.
    series = 1 / 9 + s2 * (1 / 11 + s2 * (1 / 13 + s2 / 15))
    log1p = 2 * s * (1 + s2 * (1 / 3 + s2 * (1 / 5 + s2 * (1 / 7 + s2 * series))))
    return tl.where(x >= 0, large, small), tl.where(x >= 0, small, large), log1p


@triton.jit
def silu(x):
    return x * sigmoids(x)[0]


@triton.jit
def silu_slope(x):
    large, small, _ = sigmoids(x)
    return large * (1 + x * small)


def precision() -> str:
    """Of products of matrices that a network is made of: that of PyTorch's convolutions."""
    return "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "ieee"  # type: ignore[attr-defined]


@triton.jit
def product(x, y, total, PRECISION: tl.constexpr):
    """``total + x @ y`` of float32; ``PRECISION`` as in ``tl.dot``."""
    return tl.dot(x, y, total, input_precision=PRECISION)
