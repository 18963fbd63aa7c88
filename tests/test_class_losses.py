"""What holds for every loss of class logits and labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from class_losses import (
    FORMULAS,
    Loss,
    assert_same,
    losses,
    resolutions,
    some_labels,
    some_logits,
    value_and_gradient,
)
from helpers import assert_same_when_called, ways

from inverseform_fast.checks import LABEL_DTYPES

pytestmark = losses
LABELS = torch.zeros(2, 4, 4, dtype=torch.long)


@resolutions
def test_the_formula(loss: Loss, resolution: tuple[int, int]) -> None:
    logits, labels = some_logits(2, 5, *resolution), some_labels((2, 8, 10), 5)
    assert_same(logits, loss(logits, labels), FORMULAS[loss](logits, labels))


@pytest.mark.parametrize("dtype", LABEL_DTYPES, ids=str)
@pytest.mark.parametrize("ignore_index", [100, 0, 3])
def test_labels_of_every_integer_type_and_any_void_id(loss: Loss, dtype: torch.dtype, ignore_index: int) -> None:
    logits, labels = some_logits(), some_labels((2, 8, 10), 5, void=ignore_index).to(dtype)
    actual = loss(logits, labels, ignore_index=ignore_index)
    assert_same(logits, actual, FORMULAS[loss](logits, labels, ignore_index=ignore_index))


@pytest.mark.parametrize("ignore_index", [-1, -100, 7, 70000])
def test_void_ids_outside_the_classes(loss: Loss, ignore_index: int) -> None:
    logits, labels = some_logits(), some_labels((2, 8, 10), 5, void=ignore_index)
    actual = loss(logits, labels, ignore_index=ignore_index)
    assert_same(logits, actual, FORMULAS[loss](logits, labels, ignore_index=ignore_index))


@pytest.mark.parametrize(("dtype", "classes"), [(torch.uint8, 256), (torch.uint8, 300), (torch.int8, 200)])
def test_more_classes_than_the_labels_type_can_count(loss: Loss, dtype: torch.dtype, classes: int) -> None:
    logits, labels = some_logits(1, classes, 3, 4), some_labels((1, 3, 4), 128, void=None).to(dtype)
    assert_same(logits, loss(logits, labels, ignore_index=-1), FORMULAS[loss](logits, labels, ignore_index=-1))


def test_a_void_id_that_the_type_cannot_hold_marks_nothing(loss: Loss) -> None:
    logits, labels = some_logits(1, 256, 3, 4), torch.full((1, 3, 4), 156, dtype=torch.uint8)  # -100 + 256
    assert_same(logits, loss(logits, labels, ignore_index=-100), FORMULAS[loss](logits, labels, ignore_index=-100))


@pytest.mark.parametrize("shape", [(2, 8, 10), (2, 4, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_all_void_batch_gives_zero_with_zero_gradients(
    loss: Loss, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    logits = some_logits(dtype=dtype)
    value, gradient = value_and_gradient(loss(logits, torch.full(shape, 255)) * 65536, logits)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("resolution", [(8, 10), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_empty_batch_gives_zero_and_can_be_trained_on(
    loss: Loss, resolution: tuple[int, int], dtype: torch.dtype
) -> None:
    logits = some_logits(0, 5, *resolution, dtype=dtype)
    value, gradient = value_and_gradient(loss(logits, torch.zeros(0, 8, 10, dtype=torch.long)), logits)
    assert value == 0
    assert gradient.shape == logits.shape


@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
@pytest.mark.parametrize("classes", [slice(0, 1), slice(0, 5)], ids=["one class", "all classes"])
def test_what_is_not_finite_in_void_pixels_stays_there(loss: Loss, value: float, classes: slice) -> None:
    logits, labels = some_logits(), some_labels((2, 8, 10), 5)
    valid = (labels != 255)[:, None]
    broken = logits.detach().clone()
    broken[:, classes] = torch.where(valid, broken[:, classes], value)
    found, gradient = value_and_gradient(loss(broken.requires_grad_(), labels), broken)
    expected, expected_gradient = value_and_gradient(loss(logits, labels), logits)
    torch.testing.assert_close((found, torch.where(valid, gradient, 0)), (expected, expected_gradient))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_masked_class_that_no_pixel_has(loss: Loss, dtype: torch.dtype) -> None:
    logits, labels = some_logits(c=4, dtype=dtype), some_labels((2, 8, 10), 4)
    masked = torch.cat([logits, torch.full_like(logits[:, :1], -torch.inf)], 1)
    assert_same(logits, loss(masked, labels), loss(logits, labels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_single_class_is_always_right(loss: Loss, dtype: torch.dtype) -> None:
    logits, labels = some_logits(c=1, dtype=dtype), some_labels((2, 8, 10), 1)
    value, gradient = value_and_gradient(loss(logits, labels), logits)
    assert value == 0
    assert not gradient.any()


@resolutions
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_half_precision_is_computed_in_float32(loss: Loss, dtype: torch.dtype, resolution: tuple[int, int]) -> None:
    logits, labels = some_logits(2, 5, *resolution, dtype=dtype), some_labels((2, 8, 10), 5)
    value = loss(logits, labels)
    assert value.dtype == torch.float32
    assert torch.autograd.grad(value, logits, retain_graph=True)[0].dtype == dtype
    assert_same(logits, value, FORMULAS[loss](logits.float(), labels))


@resolutions
def test_the_gradient_agrees_with_differences(loss: Loss, resolution: tuple[int, int]) -> None:
    labels = some_labels((1, 8, 10), 3)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), some_logits(1, 3, *resolution))


@ways
@pytest.mark.parametrize("resolution", [(8, 10), (4, 5)])
def test_layout_context_and_compiler_change_nothing(loss: Loss, way: str, resolution: tuple[int, int]) -> None:
    logits, labels = some_logits(2, 5, *resolution, dtype=torch.float32), some_labels((2, 8, 10), 5)
    assert_same_when_called(way, loss, logits, labels)


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
def test_the_cpu_kernel_sends_nothing_back_from_void_pixels(loss: Loss, value: float) -> None:
    labels = some_labels((2, 8, 10), 5)
    void = (labels == 255)[:, None]
    logits = some_logits(dtype=torch.float32).detach().masked_fill(void, value).requires_grad_()
    _, gradient = value_and_gradient(loss(logits, labels), logits)
    assert not gradient.masked_select(void).any()


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"logits": torch.zeros(2, 4, 4)}, ValueError, r"logits must have shape \(N, C, h, w\), got \(2, 4, 4\)"),
        ({"logits": torch.zeros(2, 0, 4, 4)}, ValueError, r"logits must have shape \(N, C, h, w\), got \(2, 0, 4, 4\)"),
        ({"logits": torch.zeros(2, 3, 4, 4).long()}, TypeError, "logits must be floating point, got torch.int64"),
        ({"labels": LABELS.float()}, TypeError, "labels must be of an integer dtype.*, got torch.float32"),
        ({"labels": LABELS.bool()}, TypeError, "labels must be of an integer dtype.*, got torch.bool"),
        ({"labels": LABELS[:, None]}, ValueError, r"labels must have shape \(2, H, W\), got \(2, 1, 4, 4\)"),
        ({"labels": LABELS[:1]}, ValueError, r"labels must have shape \(2, H, W\), got \(1, 4, 4\)"),
        ({"labels": LABELS + 3}, ValueError, r"labels must lie in \[0, 3\) or be ignore_index=255, found \[3\]"),
        ({"labels": LABELS - 1}, ValueError, r"labels must lie in \[0, 3\) or be ignore_index=255, found \[-1\]"),
        ({"labels": LABELS + 255, "ignore_index": -1}, ValueError, r"or be ignore_index=-1, found \[255\]"),
        ({"labels": LABELS.to("meta")}, ValueError, "labels must be on the device of logits, cpu, got meta"),
    ],
)
def test_bad_input_is_an_error_that_names_it(
    loss: Loss, changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        loss(**{"logits": torch.zeros(2, 3, 4, 4), "labels": LABELS, **changed})
