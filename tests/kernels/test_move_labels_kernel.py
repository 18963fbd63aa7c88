"""The kernels of move_labels against the reference."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_same_when_called, deterministic, ways
from three_way import DEVICE, random_labels
from torch import Tensor

from inverseform_fast import reference
from inverseform_fast.functional import move_labels

pytestmark = pytest.mark.kernel


def motion(*shape: int, scale: float = 0.03) -> Tensor:
    return (scale * torch.randn(*shape, 8)).to(DEVICE)


def assert_moved_alike(given: Tensor, labels: Tensor, ignore_index: int = 255) -> None:
    with deterministic():  # new tensors hold NaN, or the largest number, until a kernel writes them
        moved, displacement = move_labels(given, labels, ignore_index)
    expected, exact = reference.move_labels(given.double(), labels, ignore_index)
    assert moved.dtype == labels.dtype
    assert displacement.dtype == torch.float32
    assert ((displacement - exact).abs() <= 1e-4 + 1e-5 * exact.abs()).all()  # pixels
    unsure = ((exact + 0.5) % 1 - 0.5).abs().sub(0.5).abs() < 1e-3  # just between two pixels
    assert torch.equal(moved[~unsure.any(1)], expected[~unsure.any(1)])
    assert (moved != labels).any()


@pytest.mark.parametrize(
    ("tiles", "size"), [((1, 1), (40, 50)), ((3, 5), (61, 97)), ((1, 3), (1, 30)), ((2, 1), (200, 3))], ids=str
)
def test_the_kernels_move_as_the_reference_does(tiles: tuple[int, int], size: tuple[int, int]) -> None:
    assert_moved_alike(motion(2, *tiles, scale=0.1), random_labels(9, 2, *size))


@pytest.mark.parametrize(
    ("dtype", "ignore_index"), [(torch.uint8, 255), (torch.int8, -1), (torch.int16, 300), (torch.int64, 2**40)], ids=str
)
def test_labels_of_any_dtype_and_void(dtype: torch.dtype, ignore_index: int) -> None:
    labels = random_labels(9, 1, 30, 40, void=0).to(dtype)
    assert_moved_alike(motion(1, 1, 1, scale=0.2), labels, ignore_index)
    assert (move_labels(motion(1, 1, 1, scale=0.5), labels, ignore_index)[0] == ignore_index).any()


def test_no_motion_moves_nothing() -> None:
    labels = random_labels(9, 2, 33, 47)
    moved, displacement = move_labels(0 * motion(2, 3, 3), labels)
    assert torch.equal(moved, labels)
    assert not displacement.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_motions_of_sixteen_bits(dtype: torch.dtype) -> None:
    assert_moved_alike(motion(1, 1, 3).to(dtype), random_labels(9, 1, 30, 40))


@ways
def test_layout_context_and_compiler_change_nothing(way: str) -> None:
    assert_same_when_called(way, move_labels, motion(1, 2, 3), random_labels(9, 1, 30, 40))


def test_an_empty_batch() -> None:
    moved, displacement = move_labels(motion(0, 1, 1), random_labels(3, 0, 4, 5))
    assert moved.shape == (0, 4, 5)
    assert displacement.shape == (0, 2, 4, 5)
