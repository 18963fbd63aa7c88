"""The kernels of boundary_map equal the reference bit for bit."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_same_when_called, ways
from hypothesis import given, settings
from hypothesis import strategies as st
from three_way import DEVICE, assert_three_way, random_labels

from inverseform_fast.functional import boundary_map

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("radius", [1, 2, 3, 5])
@pytest.mark.parametrize("release", [False, True], ids=["ours", "release"])
@pytest.mark.parametrize("shape", [(2, 7, 15), (1, 1, 1)], ids=str)
def test_the_kernel_is_as_accurate_as_the_reference(radius: int, release: bool, shape: tuple[int, int, int]) -> None:
    assert_three_way("boundary_map", random_labels(3, *shape), radius=radius, release=release)


@pytest.mark.parametrize("release", [False, True], ids=["ours", "release"])
def test_several_programs(release: bool) -> None:
    assert_three_way("boundary_map", random_labels(3, 1, 18, 140), release=release)


@pytest.mark.parametrize(
    ("dtype", "ignore_index"),
    [
        (torch.uint8, 255), (torch.uint8, -100), (torch.int8, -1), (torch.int16, 300), (torch.int32, -1),
        (torch.int64, 255), (torch.int64, 0), (torch.int64, -(2**31)),
    ],
    ids=str,
)  # fmt: skip
def test_types_and_void(dtype: torch.dtype, ignore_index: int) -> None:
    labels = random_labels(3, 1, 9, 20, void=0).to(dtype)
    if torch.iinfo(dtype).min <= ignore_index <= torch.iinfo(dtype).max:
        labels[torch.rand(labels.shape).to(DEVICE) < 0.2] = ignore_index
    assert_three_way("boundary_map", labels, ignore_index=ignore_index)


def test_labels_of_opposite_extremes_differ() -> None:
    labels = torch.tensor([[[-(2**31), 2**31 - 1, 2**31 - 1, 2**31 - 1, 2**31 - 1, 254, 254]]], device=DEVICE)
    assert boundary_map(labels).tolist() == [[[1, 1, 1, 1, 1, 1, 1]]]
    assert boundary_map(labels, radius=1).tolist() == [[[1, 1, 0, 0, 1, 1, 0]]]


@settings(max_examples=3)
@given(shape=st.tuples(st.integers(1, 2), st.integers(1, 20), st.integers(1, 40)), radius=st.integers(1, 3))
def test_any_shape_is_as_accurate_as_the_reference(shape: tuple[int, int, int], radius: int) -> None:
    assert_three_way("boundary_map", random_labels(2, *shape), radius=radius)


@ways
def test_layout_context_and_compiler_change_nothing(way: str) -> None:
    assert_same_when_called(way, boundary_map, random_labels(3, 2, 8, 10))


def test_an_empty_batch() -> None:
    assert boundary_map(random_labels(3, 0, 4, 4)).shape == (0, 4, 4)


@pytest.mark.triton
def test_an_edge_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="height and width must be at most 32000 pixels"):
        boundary_map(torch.zeros(1, 1, 32001, dtype=torch.uint8, device=DEVICE))


@pytest.mark.triton
def test_a_void_label_of_more_than_32_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="ignore_index must fit in 32 bits for the Triton kernels, got 2147483648"):
        boundary_map(random_labels(3, 1, 4, 4), ignore_index=2**31)
