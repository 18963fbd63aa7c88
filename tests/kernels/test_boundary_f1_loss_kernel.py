"""The kernels of boundary_f1_loss go by windows, strips and bands; test_class_losses_kernel.py has the rest."""

from __future__ import annotations

import pytest
import torch
from three_way import DEVICE, FLOATS, assert_three_way, random, random_labels

from inverseform_fast import reference
from inverseform_fast.functional import boundary_f1_loss, boundary_f1_sums

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(("radius", "tolerance"), [(1, 1), (1, 40), (2, 3), (3, 1), (4, 2)])
def test_windows_of_every_size(radius: int, tolerance: int) -> None:
    logits, labels = random(2, 3, 9, 6), random_labels(3, 2, 18, 12, void=0.01)
    assert_three_way("boundary_f1_loss", logits, labels, radius=radius, tolerance=tolerance)


def test_several_segments_and_bands() -> None:
    assert_three_way("boundary_f1_loss", random(1, 2, 24, 3), random_labels(2, 1, 95, 9, void=0.01))


def test_several_strips() -> None:
    assert_three_way("boundary_f1_loss", random(1, 2, 2, 70), random_labels(2, 1, 5, 250, void=0.01))


def test_classes_of_several_words() -> None:
    labels = 31 + random_labels(3, 1, 6, 7, void=0)  # the last of the first word, and two of the second
    assert_three_way("boundary_f1_loss", random(1, 34, 3, 4), labels)


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_of_equal_probabilities_the_first_one_of_the_window_receives_the_gradient(radius: int) -> None:
    patches = torch.randn(1, 3, 4, 5).repeat_interleave(3, 2).repeat_interleave(3, 3).to(DEVICE)
    assert_three_way("boundary_f1_loss", patches, random_labels(3, 1, 12, 15, void=0), radius=radius)


@pytest.mark.parametrize("size", [(4, 5), (8, 10)], ids=str)
def test_nan_reaches_no_more_gradients_than_in_the_reference(size: tuple[int, int]) -> None:
    logits, labels = random(1, 3, 4, 5), random_labels(3, 1, *size)
    logits[0, :, 2, 3] = torch.nan
    losses = [loss(logits.requires_grad_(), labels) for loss in (boundary_f1_loss, reference.boundary_f1_loss)]
    assert losses[0].isnan()
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in losses), equal_nan=True)


def test_classes_without_true_boundary_are_left_out() -> None:
    labels = random_labels(3, 2, 9, 8, void=0.02)
    assert_three_way("boundary_f1_loss", random(2, 7, 5, 4), torch.where(labels == 2, 5, labels))


@pytest.mark.parametrize("factor", [1, 1e7])
def test_sums_of_a_larger_batch_are_taken(factor: float) -> None:
    logits, labels = random(2, 7, 5, 4), torch.where(random_labels(3, 2, 9, 8) == 2, 5, 0)
    sums = factor * boundary_f1_sums(random(2, 7, 5, 4), random_labels(6, 2, 9, 8, void=0.02))  # the last is absent
    assert_three_way("boundary_f1_loss", logits, labels, sums=sums)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_sums_are_as_accurate_as_the_reference(dtype: torch.dtype) -> None:
    assert_three_way("boundary_f1_sums", random(2, 7, 5, 4, dtype=dtype), random_labels(6, 2, 9, 8, void=0.02))


def test_an_image_of_void_changes_nothing() -> None:
    logits, labels = random(2, 3, 4, 5), random_labels(3, 2, 8, 10, void=0.02)
    labels[1] = 255
    assert boundary_f1_loss(logits, labels) == boundary_f1_loss(logits[:1], labels[:1]) > 0
