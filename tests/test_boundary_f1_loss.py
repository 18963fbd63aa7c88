"""boundary_f1_loss compares boundaries class by class; test_class_losses.py compares it with its formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from class_losses import assert_same, boundary_f1, boundary_sums, some_labels, some_logits, value_and_gradient
from torch import Tensor

import inverseform_fast as iff
from inverseform_fast.functional import boundary_f1_loss, boundary_f1_sums

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
STRIPES = torch.arange(3).repeat_interleave(8).expand(1, 12, 24)


def sure(labels: Tensor) -> Tensor:
    return 100 * F.one_hot(labels, 3).movedim(-1, 1).float()


@pytest.mark.parametrize("tolerance", [0, 1, 3, 9, 10**9])
@pytest.mark.parametrize("radius", [1, 2, 3, 8, 10**9])
def test_the_sums_are_those_of_the_definition(radius: int, tolerance: int) -> None:
    logits, labels = some_logits(2, 5, 4, 5), some_labels((2, 8, 10), 5)
    expected = boundary_sums(logits, labels, radius, tolerance=tolerance)
    for each in (logits, logits.float()):
        sums = boundary_f1_sums(each, labels, radius, tolerance=tolerance)
        torch.testing.assert_close(sums, expected.detach(), rtol=1e-6, atol=1e-6)
        assert not sums.requires_grad


@dtypes
@pytest.mark.parametrize(("radius", "tolerance"), [(1, 0), (1, 3), (2, 1), (3, 2), (5, 2), (40, 2)])
def test_windows_of_any_size_have_the_value_and_gradient_of_the_formula(
    radius: int, tolerance: int, dtype: torch.dtype
) -> None:
    logits, labels = some_logits(2, 5, 4, 5, dtype), some_labels((2, 8, 10), 5)
    loss = boundary_f1_loss(logits, labels, radius, tolerance=tolerance)
    assert_same(logits, loss, boundary_f1(logits, labels, radius, tolerance=tolerance))


@dtypes
def test_classes_without_a_boundary_are_left_out(dtype: torch.dtype) -> None:
    logits, labels = some_logits(c=40, dtype=dtype), some_labels((2, 8, 10), 3)
    labels = torch.where(labels == 2, 39, labels)  # 2 to 38 are absent
    assert_same(logits, boundary_f1_loss(logits, labels), boundary_f1(logits, labels))


@dtypes
@pytest.mark.parametrize("radius", [1, 2, 3, 5])
def test_of_equal_minima_the_first_gets_the_gradient(radius: int, dtype: torch.dtype) -> None:
    labels = some_labels((2, 8, 16), 3)
    logits = some_logits(2, 3, 8, 16, dtype).detach().sign().requires_grad_()  # so few values that most minima tie
    assert_same(logits, boundary_f1_loss(logits, labels, radius), boundary_f1(logits, labels, radius))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_labels_of_one_class_have_no_boundary(backend: str) -> None:
    logits = some_logits(dtype=torch.float32)
    with iff.set_backend(backend):
        value, gradient = value_and_gradient(boundary_f1_loss(logits, torch.ones(2, 8, 10, dtype=torch.long)), logits)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_flat_prediction_has_a_loss_of_one_and_no_gradient(backend: str) -> None:
    logits = torch.zeros(1, 3, 12, 24, requires_grad=True)
    with iff.set_backend(backend):
        value, gradient = value_and_gradient(boundary_f1_loss(logits, STRIPES), logits)
    assert value == 1
    assert not gradient.any()


@pytest.mark.parametrize(("shift", "tolerance", "expected"), [(0, 2, 0), (0, 0, 0), (4, 2, 1), (8, 9, 1)])
def test_a_prediction_is_as_good_as_its_boundary(shift: int, tolerance: int, expected: float) -> None:
    moved = torch.cat((STRIPES[..., :1].expand(1, 12, shift), STRIPES), -1)[..., :24]
    assert boundary_f1_loss(sure(moved), STRIPES, tolerance=tolerance) == expected


@pytest.mark.parametrize(("tolerance", "middle"), [(0, 1 / 2), (1, 2 / 3)])
def test_precision_has_the_tolerance_and_recall_has_none(tolerance: int, middle: float) -> None:
    """One of two edges is off by a pixel: all of the first class is found, half of the second and none of the third."""
    moved = STRIPES.clone()
    moved[..., 16] = 1
    loss = boundary_f1_loss(sure(moved), STRIPES, 1, tolerance=tolerance)
    assert loss.item() == pytest.approx(1 - (1 + middle + 0) / 3, rel=1e-6)


def test_a_part_has_the_loss_of_the_batch_and_its_own_share_of_the_gradient() -> None:
    logits, labels = some_logits(3), some_labels((3, 8, 10), 5)
    labels[0] = 255
    for whole in (logits, logits.float()):
        loss, gradient = value_and_gradient(boundary_f1_loss(whole, labels), whole)
        parts = list(zip(whole.split([1, 2]), labels.split([1, 2]), strict=True))
        sums = torch.stack([boundary_f1_sums(*part) for part in parts]).sum(0)
        found = [value_and_gradient(boundary_f1_loss(*part, sums=sums), part[0]) for part in parts]
        torch.testing.assert_close([value for value, _ in found], [loss, loss])
        torch.testing.assert_close(torch.cat([each for _, each in found]), gradient)


def test_a_step_against_the_gradient_is_better() -> None:
    logits, labels = some_logits(c=4), some_labels((2, 16, 20), 4)
    value, gradient = value_and_gradient(boundary_f1_loss(logits, labels), logits)
    assert boundary_f1_loss(logits - 10 * gradient, labels) < value


@pytest.mark.parametrize("tolerance", [-1, 1.5, True])
def test_a_bad_tolerance_is_an_error_that_names_it(tolerance: object) -> None:
    logits, labels = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    for function in (boundary_f1_loss, boundary_f1_sums):
        with pytest.raises(ValueError, match="tolerance must be a whole number of pixels, at least 0, got"):
            function(logits, labels, tolerance=tolerance)  # type: ignore[arg-type]


def test_sums_of_another_shape_are_an_error_that_names_them() -> None:
    logits, labels = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"sums must be float64 of shape \(4, 3\), got torch.float64 \(3, 3\)"):
        boundary_f1_loss(logits, labels, sums=torch.zeros(3, 3, dtype=torch.float64))
