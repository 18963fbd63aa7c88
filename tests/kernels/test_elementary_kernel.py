"""What kernels share of arithmetic is right for every kind of number."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from three_way import DEVICE

from inverseform_fast.kernels.elementary import rounded_to_tf32

pytestmark = pytest.mark.triton


@triton.jit
def _round_all(x, result, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    tl.store(result + place, rounded_to_tf32(tl.load(x + place)))


def test_rounding_to_tf32_gives_the_nearest_number_of_ten_bits() -> None:
    special = [0.0, -0.0, 1 + 2**-11, -1 - 2**-11, 1 + 2**-11 - 2**-23, 2 - 2**-12, torch.finfo().tiny, 1e38, -1e-38]
    x = torch.cat((torch.tensor(special), torch.randn(1024 - len(special)).mul(20).exp() * torch.randn(1).sign()))
    result = torch.empty_like(x, device=DEVICE)
    _round_all[(1,)](x.to(DEVICE), result, BLOCK=1024)
    fraction, exponent = torch.frexp(x.double())
    steps = fraction.abs() * 2**11
    nearest = torch.ldexp((steps + 0.5).floor().copysign(x.double()), exponent - 11)
    assert result.cpu().equal(nearest.float())
    assert result.cpu().signbit().equal(x.signbit())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy warns of infinity and NaN
def test_rounding_to_tf32_keeps_infinity_and_nan_of_any_bits() -> None:
    """NaN has all bits set on a GPU, so that a carry from the low bits would make a zero of it."""
    largest_finite, infinity, first_nan, last_nan = 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FFFFFFF
    bits = torch.tensor([largest_finite, infinity, infinity - 2**31, first_nan, last_nan, -1, first_nan - 2**31, 0])
    result = torch.empty(8, device=DEVICE)
    _round_all[(1,)](bits.int().view(torch.float32).to(DEVICE), result, BLOCK=8)
    inf, nan = torch.inf, torch.nan
    torch.testing.assert_close(result.cpu(), torch.tensor([inf, inf, -inf, nan, nan, nan, nan, 0]), equal_nan=True)
