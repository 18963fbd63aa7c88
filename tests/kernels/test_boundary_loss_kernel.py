"""The kernel of boundary_loss is as accurate as the reference."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_same_when_called, leaf_grad, ways
from hypothesis import given, settings
from hypothesis import strategies as st
from three_way import DEVICE, FLOATS, assert_three_way, random, random_labels

from inverseform_fast.functional import boundary_loss

pytestmark = pytest.mark.kernel

SIZES = [((5, 7), (20, 28)), ((17, 5), (33, 11)), ((9, 8), (9, 8)), ((20, 31), (7, 50)), ((1, 2), (5, 19))]


@pytest.mark.parametrize(("size", "full"), SIZES, ids=str)
def test_the_kernel_is_as_accurate_as_the_reference(size: tuple[int, int], full: tuple[int, int]) -> None:
    assert_three_way("boundary_loss", random(2, 1, *size), random_labels(3, 2, *full))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_dtype_is_as_accurate_as_the_reference(dtype: torch.dtype) -> None:
    assert_three_way("boundary_loss", random(2, 1, 4, 5, dtype=dtype), random_labels(3, 2, 16, 20), radius=1)


@pytest.mark.parametrize("counts", [(0, 9), (700, 2**25), (3e9, 5e8)], ids=str)
def test_counts_of_a_larger_batch_are_taken(counts: tuple[float, float]) -> None:
    balance = torch.tensor(counts, dtype=torch.float64, device=DEVICE)
    assert_three_way("boundary_loss", random(2, 1, 4, 5), random_labels(3, 2, 16, 20), counts=balance)


@settings(max_examples=3)
@given(
    size=st.tuples(st.integers(1, 18), st.integers(1, 18)),
    full=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    radius=st.integers(1, 3),
)
def test_any_shape_is_as_accurate_as_the_reference(size: tuple[int, int], full: tuple[int, int], radius: int) -> None:
    assert_three_way("boundary_loss", random(1, 1, *size), random_labels(2, 1, *full), radius=radius)


@ways
def test_layout_context_and_compiler_change_nothing(way: str) -> None:
    assert_same_when_called(way, boundary_loss, random(2, 1, 4, 5), random_labels(3, 2, 8, 10))


@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_sure_and_saturated_logits(scale: float) -> None:
    assert_three_way("boundary_loss", random(1, 1, 8, 8, scale=scale), random_labels(2, 1, 8, 8), radius=1)


def test_a_right_and_sure_prediction_keeps_its_small_loss() -> None:
    labels = random_labels(2, 1, 12, 12, void=0)
    logits = torch.where(torch.ops.inverseform_fast.boundary_map(labels, 1, 255, False) == 1, 20.0, -20.0)[:, None]
    assert_three_way("boundary_loss", logits, labels, radius=1)
    assert boundary_loss(logits, labels, 1) > 0


@pytest.mark.parametrize("label", [0, 255])
def test_one_kind_of_pixels_gives_zero_and_zero_gradient(label: int) -> None:
    logits = random(1, 1, 2, 2).requires_grad_()
    loss = boundary_loss(logits, torch.full((1, 4, 4), label, device=DEVICE))
    loss.backward()
    assert loss == 0
    assert not leaf_grad(logits).any()


def test_an_empty_batch_gives_zero() -> None:
    logits = random(0, 1, 2, 2).requires_grad_()
    loss = boundary_loss(logits, random_labels(3, 0, 4, 4))
    loss.backward()
    assert loss == 0
