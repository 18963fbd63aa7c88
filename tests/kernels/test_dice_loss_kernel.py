"""The kernels of dice_loss add up many programs; test_class_losses_kernel.py has the rest."""

from __future__ import annotations

import pytest
import torch
from three_way import FLOATS, assert_three_way, random, random_labels

from inverseform_fast.functional import dice_loss, dice_sums

pytestmark = pytest.mark.kernel


def test_classes_that_no_pixel_has_are_left_out() -> None:
    labels = random_labels(3, 2, 9, 8)
    assert_three_way("dice_loss", random(2, 7, 5, 4), torch.where(labels == 2, 5, labels))


@pytest.mark.parametrize(("size", "full"), [((1, 1), (17, 18)), ((31, 31), (31, 31))], ids=["parts", "blocks"])
def test_many_programs(size: tuple[int, int], full: tuple[int, int]) -> None:
    assert_three_way("dice_loss", random(1, 2, *size), random_labels(2, 1, *full))


@pytest.mark.parametrize("factor", [1, 1e7])
def test_sums_of_a_larger_batch_are_taken(factor: float) -> None:
    logits, labels = random(2, 7, 5, 4), torch.where(random_labels(3, 2, 9, 8) == 2, 5, 0)
    sums = factor * dice_sums(random(2, 7, 5, 4), random_labels(6, 2, 9, 8))  # the last class is absent
    assert_three_way("dice_loss", logits, labels, sums=sums)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_sums_are_as_accurate_as_the_reference(dtype: torch.dtype) -> None:
    assert_three_way("dice_sums", random(2, 7, 5, 4, dtype=dtype), random_labels(6, 2, 9, 8))


def test_an_image_of_void_changes_nothing() -> None:
    logits, labels = random(2, 3, 4, 5), random_labels(3, 2, 8, 10)
    labels[1] = 255
    torch.testing.assert_close(dice_loss(logits, labels), dice_loss(logits[:1], labels[:1]), rtol=0, atol=0)
