"""The interpreter follows the rules of ``gpu_rules.py``. On a GPU, these tests show that it does so, too."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl
from three_way import DEVICE
from torch import Tensor

from inverseform_fast.ops.backend import INTERPRETED

pytestmark = pytest.mark.triton
NAN, INF = math.nan, math.inf


@triton.jit
def _extremes(x, y, result):
    place = tl.arange(0, 4)
    first, second = tl.load(x + place), tl.load(y + place)
    tl.store(result + place, tl.maximum(first, second))
    tl.store(result + 4 + place, tl.minimum(first, second))
    tl.store(result + 8 + place, tl.maximum(first, second, propagate_nan=tl.PropagateNan.ALL))
    tl.store(result + 12 + place, tl.minimum(first, second, propagate_nan=tl.PropagateNan.ALL))


def test_extremes_drop_nan_unless_it_is_to_propagate() -> None:
    x, y = torch.tensor([[NAN, 1.0, 2.0, NAN], [0.0, NAN, 3.0, NAN]], device=DEVICE)
    result = torch.empty(4, 4, device=DEVICE)
    _extremes[(1,)](x, y, result)
    expected = [[0, 1, 3, NAN], [0, 1, 2, NAN], [NAN, NAN, 3, NAN], [NAN, NAN, 2, NAN]]
    torch.testing.assert_close(result.cpu(), torch.tensor(expected), equal_nan=True)


@triton.jit
def _integers(x, result):
    place = tl.arange(0, 8)
    tl.store(result + place, tl.load(x + place).to(result.dtype.element_ty))


@pytest.mark.parametrize(("dtype", "of_nan"), [(torch.int32, 0), (torch.int64, -(2**63))], ids=str)
def test_integers_are_the_nearest_of_their_type(dtype: torch.dtype, of_nan: int) -> None:
    least, most = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    x = torch.tensor([NAN, INF, -INF, 1e30, float(least), -1e30, -2.9, 7.9], device=DEVICE)
    result = torch.empty(8, dtype=dtype, device=DEVICE)
    _integers[(1,)](x, result)
    assert result.tolist() == [of_nan, most, least, most, least, least, -2, 7]


@triton.jit
def _dot(x, y, result, PRECISION: tl.constexpr):
    place = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
    total = tl.zeros([16, 16], tl.float32)
    tl.store(result + place, tl.dot(tl.load(x + place), tl.load(y + place), total, input_precision=PRECISION))


def dot(x: Tensor, y: Tensor, precision: str) -> Tensor:
    result = torch.empty(16, 16, device=DEVICE)
    _dot[(1,)](x, y, result, PRECISION=precision)
    return result


@pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0), reason="it has no TF32")
def test_matrix_units_cut_the_bits_that_tf32_lacks() -> None:
    """Each entry of the result is an operand; its digits from 2^-11 on are lost."""
    first, second = (1 + torch.rand(2, 16, 16)).to(DEVICE)
    one = torch.eye(16, device=DEVICE)
    for x, y, operand in ((first, one, first), (one, second, second)):
        assert dot(x, y, "tf32").equal(operand.mul(2**10).floor().div(2**10))
        assert dot(x, y, "ieee").equal(operand)


@triton.jit
def _arrivals(counter, result):
    tl.store(result + tl.program_id(0), tl.atomic_add(counter, 1))


@pytest.mark.skipif(not INTERPRETED, reason="a GPU chooses the order itself")
def test_programs_run_in_any_order_and_each_once() -> None:
    counter, result = torch.zeros(1, dtype=torch.int32), torch.zeros(2, 50, dtype=torch.int32)
    for arrivals in result:
        _arrivals[(50,)](counter.zero_(), arrivals)
        assert sorted(arrivals.tolist()) == list(range(50))
        assert arrivals.tolist() != list(range(50))
    assert not result[0].equal(result[1])
