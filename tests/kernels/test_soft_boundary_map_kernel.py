"""The kernels of soft_boundary_map are as accurate as the reference."""

from __future__ import annotations

from functools import partial

import pytest
import three_way
import torch
from helpers import assert_same_when_called, ways
from hypothesis import given, settings
from hypothesis import strategies as st
from three_way import FLOATS, random

from inverseform_fast.functional import boundary_map, soft_boundary_map

pytestmark = pytest.mark.kernel
# Where the prediction is sure, the backward takes the difference of nearly equal numbers. The reference's two share
# their rounding; the kernel would need one more pass over the classes for that.
assert_three_way = partial(three_way.assert_three_way, factor=6)

SIZES = [((5, 7), (20, 28)), ((17, 4), (33, 7)), ((16, 24), (16, 24)), ((20, 25), (9, 17)), ((2, 5), (11, 41))]


@pytest.mark.parametrize(("size", "full"), SIZES, ids=str)
def test_the_kernel_is_as_accurate_as_the_reference(size: tuple[int, int], full: tuple[int, int]) -> None:
    assert_three_way("soft_boundary_map", random(1, 3, *size, scale=2.0), size=full)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("radius", [1, 3])
def test_every_dtype_and_radius_is_as_accurate_as_the_reference(dtype: torch.dtype, radius: int) -> None:
    assert_three_way("soft_boundary_map", random(2, 2, 6, 7, dtype=dtype, scale=2.0), size=(12, 14), radius=radius)


def test_rows_of_several_bands() -> None:
    assert_three_way("soft_boundary_map", random(1, 2, 35, 3, scale=2.0), size=(140, 6))


def test_a_radius_too_large_for_the_kernel_runs_the_reference() -> None:
    assert_three_way("soft_boundary_map", random(1, 2, 6, 7, scale=2.0), size=(12, 14), radius=6)


@settings(max_examples=3)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    full=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    classes=st.integers(1, 6),
)
def test_any_shape_is_as_accurate_as_the_reference(size: tuple[int, int], full: tuple[int, int], classes: int) -> None:
    assert_three_way("soft_boundary_map", random(1, classes, *size), size=full, radius=1)


@ways
def test_layout_context_and_compiler_change_nothing(way: str) -> None:
    assert_same_when_called(way, soft_boundary_map, random(2, 3, 4, 5), size=(8, 10))


def test_one_hot_predictions_give_the_boundary_map() -> None:
    labels = torch.randint(3, (1, 9, 11))
    logits = 200.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).to(random(1).device)
    assert soft_boundary_map(logits)[:, 0].round().equal(boundary_map(labels.to(logits.device)).float())


def test_an_empty_batch() -> None:
    logits = random(0, 3, 4, 5).requires_grad_()
    assert soft_boundary_map(logits, (8, 10)).shape == (0, 1, 8, 10)
    soft_boundary_map(logits, (8, 10)).sum().backward()
