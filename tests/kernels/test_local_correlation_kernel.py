"""The kernels of local_correlation are as accurate as the reference."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_same_when_called, leaf_grad, results_and_gradients, ways
from three_way import FLOATS, assert_three_way, random

from inverseform_fast.functional import local_correlation

pytestmark = pytest.mark.kernel

# (N, C, h, w), reach, groups: the network's but smaller, none, farther than the map, single cells, wide rows
CASES = [
    ((1, 8, 7, 7), 3, 2), ((1, 4, 5, 6), 0, 1), ((2, 6, 4, 5), 2, 3), ((1, 3, 2, 3), 4, 3), ((1, 2, 1, 1), 1, 1),
    ((1, 5, 5, 70), 1, 5),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "reach", "groups"), CASES, ids=str)
def test_the_kernel_is_as_accurate_as_the_reference(shape: tuple[int, ...], reach: int, groups: int) -> None:
    assert_three_way("local_correlation", random(*shape), random(*shape), reach=reach, groups=groups)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_dtype_is_as_accurate_as_the_reference(dtype: torch.dtype) -> None:
    maps = (random(2, 4, 5, 6, dtype=dtype) for _ in range(2))
    assert_three_way("local_correlation", *maps, reach=2, groups=2)


@pytest.mark.parametrize("wanted", [(True, False), (False, True)], ids=str)
def test_one_of_the_gradients(wanted: tuple[bool, bool]) -> None:
    maps = random(2, 6, 4, 5), random(2, 6, 4, 5)
    both = results_and_gradients(local_correlation, *maps, reach=1)[1:]
    for x, want in zip(maps, wanted, strict=True):
        x.requires_grad_(want)
    result = local_correlation(*maps, reach=1)
    (result * torch.linspace(-1, 1, result.numel(), device=result.device).view(result.shape)).sum().backward()
    for x, want, expected in zip(maps, wanted, both, strict=True):
        assert torch.equal(leaf_grad(x), expected) if want else x.grad is None


@ways
def test_layout_context_and_compiler_change_nothing(way: str) -> None:
    assert_same_when_called(way, local_correlation, random(2, 6, 4, 5), random(2, 6, 4, 5), reach=1, groups=3)


def test_an_empty_batch() -> None:
    first = random(0, 4, 3, 5).requires_grad_()
    local_correlation(first, random(0, 4, 3, 5), 1).sum().backward()
    assert leaf_grad(first).shape == first.shape


@pytest.mark.triton
def test_an_edge_too_long_is_refused() -> None:
    long = random(1, 1, 32001, 1)
    with pytest.raises(ValueError, match="height and width must be at most 32000 pixels"):
        local_correlation(long, long, 1)
