"""The kernels of extract_tiles are as accurate as the reference."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_same_when_called, ways
from hypothesis import given, settings
from hypothesis import strategies as st
from three_way import DEVICE, FLOATS, assert_three_way, random

from inverseform_fast.functional import extract_tiles

pytestmark = pytest.mark.kernel

# (prediction, target, result, tile)
SIZES = [
    ((5, 7), (10, 14), (8, 12), 4), ((5, 9), (11, 13), (6, 12), 6), ((8, 12), (8, 12), (8, 12), 4),
    ((20, 25), (20, 25), (8, 8), 8), ((1, 2), (9, 17), (4, 8), 4), ((2, 3), (9, 9), (10, 10), 10),
]  # fmt: skip


def some_target(*size: int, n: int = 2, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    chance = torch.rand(n, 1, *size)
    return (chance > 0.7).to(dtype).masked_fill(chance < 0.03, 255).to(DEVICE)


@pytest.mark.parametrize(("predicted", "target", "size", "tile"), SIZES, ids=str)
@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_the_kernel_is_as_accurate_as_the_reference(predicted, target, size, tile: int, activation: str | None) -> None:
    assert_three_way(
        "extract_tiles", random(2, 1, *predicted), some_target(*target), size=size, tile=tile, activation=activation
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("target_dtype", [torch.uint8, torch.int64], ids=str)
def test_every_dtype_is_as_accurate_as_the_reference(dtype: torch.dtype, target_dtype: torch.dtype) -> None:
    target = some_target(8, 12, n=1, dtype=target_dtype)
    assert_three_way("extract_tiles", random(1, 1, 2, 3, dtype=dtype), target, size=(8, 12), tile=4)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_floating_target_is_read_and_gets_no_gradient(dtype: torch.dtype) -> None:
    logits, target = random(1, 1, 2, 3).requires_grad_(), some_target(8, 12, n=1)
    tiles = extract_tiles(logits, target.to(dtype), (8, 12), 4)
    torch.testing.assert_close(tiles, extract_tiles(logits, target, (8, 12), 4), rtol=0, atol=0)
    assert tiles[0].requires_grad
    assert not tiles[1].requires_grad


@settings(max_examples=4)
@given(
    predicted=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    target=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    counts=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    tile=st.integers(1, 12),
)
def test_any_shape_is_as_accurate_as_the_reference(predicted, target, counts: tuple[int, int], tile: int) -> None:
    size = (counts[0] * tile, counts[1] * tile)
    without_void = some_target(*target, n=1).clamp(max=1)
    assert_three_way("extract_tiles", random(1, 1, *predicted), without_void, size=size, tile=tile)


@ways
def test_layout_context_and_compiler_change_nothing(way: str) -> None:
    assert_same_when_called(way, extract_tiles, random(2, 1, 4, 6), some_target(8, 12), size=(8, 12), tile=4)


def test_an_empty_batch() -> None:
    logits = random(0, 1, 4, 6).requires_grad_()
    predicted, true = extract_tiles(logits, some_target(8, 12, n=0), (8, 12), 4)
    assert predicted.shape == true.shape == (0, 1, 4, 4)
    predicted.sum().backward()
