"""segmentation_loss equals F.cross_entropy of F.interpolate, in values and gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same_when_called, some_labels, ways
from torch import Tensor

from inverseform_fast.checks import LABEL_DTYPES
from inverseform_fast.functional import segmentation_loss

WEIGHTS = torch.tensor([0.5, 1.0, 3.0, 0.0, 2.0], dtype=torch.float64)
resolutions = pytest.mark.parametrize("resolution", [(8, 10), (2, 3), (4, 5), (13, 7), (1, 1)], ids=str)


def some_logits(n: int = 2, c: int = 5, h: int = 8, w: int = 10, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(n, c, h, w, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def stock(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, ignore_index: int = 255) -> Tensor:
    upsampled = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(upsampled, labels.long(), class_weights, ignore_index=ignore_index)


def value_and_gradient(loss: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    return loss, torch.autograd.grad(loss, logits)[0]


def assert_same(logits: Tensor, actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value_and_gradient(actual, logits), value_and_gradient(expected, logits))


@resolutions
@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_interpolate_and_cross_entropy(resolution: tuple[int, int], class_weights: Tensor | None) -> None:
    logits, labels = some_logits(2, 5, *resolution), some_labels((2, 8, 10), 5)
    assert_same(logits, segmentation_loss(logits, labels, class_weights), stock(logits, labels, class_weights))


@pytest.mark.parametrize("dtype", LABEL_DTYPES, ids=str)
@pytest.mark.parametrize("ignore_index", [100, 0, 3])
def test_labels_of_every_integer_type_and_any_void_id(dtype: torch.dtype, ignore_index: int) -> None:
    logits, labels = some_logits(), some_labels((2, 8, 10), 5, void=ignore_index).to(dtype)
    actual = segmentation_loss(logits, labels, WEIGHTS, ignore_index)
    assert_same(logits, actual, stock(logits, labels, WEIGHTS, ignore_index))


@pytest.mark.parametrize("ignore_index", [-1, -100, 7, 70000])
def test_void_ids_outside_the_classes(ignore_index: int) -> None:
    logits, labels = some_logits(), some_labels((2, 8, 10), 5, void=ignore_index)
    assert_same(
        logits, segmentation_loss(logits, labels, None, ignore_index), stock(logits, labels, None, ignore_index)
    )


@pytest.mark.parametrize(("dtype", "classes"), [(torch.uint8, 256), (torch.uint8, 300), (torch.int8, 200)])
def test_more_classes_than_the_labels_type_can_count(dtype: torch.dtype, classes: int) -> None:
    logits, labels = some_logits(1, classes, 3, 4), some_labels((1, 3, 4), 128, void=None).to(dtype)
    assert_same(logits, segmentation_loss(logits, labels, None, -1), stock(logits, labels, None, -1))


def test_a_void_id_that_the_type_cannot_hold_marks_nothing() -> None:
    logits, labels = some_logits(1, 256, 3, 4), torch.full((1, 3, 4), 156, dtype=torch.uint8)  # -100 + 256
    assert_same(logits, segmentation_loss(logits, labels, None, -100), stock(logits, labels, None, -100))


@pytest.mark.parametrize("shape", [(2, 8, 10), (2, 4, 5)], ids=str)
def test_an_all_void_batch_gives_zero_with_zero_gradients(shape: tuple[int, int, int]) -> None:
    logits = some_logits(dtype=torch.float32)
    loss, gradient = value_and_gradient(segmentation_loss(logits, torch.full(shape, 255)) * 65536, logits)
    assert loss == 0
    assert not gradient.any()


@pytest.mark.parametrize("resolution", [(8, 10), (2, 3)])
def test_an_empty_batch_gives_zero_and_can_be_trained_on(resolution: tuple[int, int]) -> None:
    logits = some_logits(0, 5, *resolution)
    loss, gradient = value_and_gradient(segmentation_loss(logits, torch.zeros(0, 8, 10, dtype=torch.long)), logits)
    assert loss == 0
    assert gradient.shape == logits.shape


@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
@pytest.mark.parametrize("classes", [slice(0, 1), slice(0, 5)], ids=["one class", "all classes"])
def test_what_is_not_finite_in_void_pixels_stays_there(value: float, classes: slice) -> None:
    logits, labels = some_logits(), some_labels((2, 8, 10), 5)
    valid = (labels != 255)[:, None]
    broken = logits.detach().clone()
    broken[:, classes] = torch.where(valid, broken[:, classes], value)
    loss, gradient = value_and_gradient(segmentation_loss(broken.requires_grad_(), labels), broken)
    expected, expected_gradient = value_and_gradient(segmentation_loss(logits, labels), logits)
    torch.testing.assert_close((loss, torch.where(valid, gradient, 0)), (expected, expected_gradient))


def test_a_masked_class_that_no_pixel_has() -> None:
    logits, labels = some_logits(c=4), some_labels((2, 8, 10), 4)
    masked = torch.cat([logits, torch.full_like(logits[:, :1], -torch.inf)], 1)
    assert_same(logits, segmentation_loss(masked, labels), segmentation_loss(logits, labels))


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_large_logits(scale: float) -> None:
    labels = some_labels((2, 8, 10), 5, void=None)
    right = scale * F.one_hot(labels, 5).movedim(-1, 1).float()
    assert segmentation_loss(right, labels) == 0
    torch.testing.assert_close(segmentation_loss(-right, labels).item(), scale + math.log(4), rtol=1e-6, atol=0)


def test_a_single_class_is_always_right() -> None:
    logits, labels = some_logits(c=1), some_labels((2, 8, 10), 1)
    loss, gradient = value_and_gradient(segmentation_loss(logits, labels), logits)
    assert loss == 0
    assert not gradient.any()


@resolutions
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, resolution: tuple[int, int]) -> None:
    logits, labels = some_logits(2, 5, *resolution, dtype=dtype), some_labels((2, 8, 10), 5)
    loss = segmentation_loss(logits, labels, WEIGHTS.to(dtype))
    assert loss.dtype == torch.float32
    assert torch.autograd.grad(loss, logits, retain_graph=True)[0].dtype == dtype
    assert_same(logits, loss, stock(logits.float(), labels, WEIGHTS.float()))


@resolutions
def test_the_gradient_agrees_with_differences(resolution: tuple[int, int]) -> None:
    labels = some_labels((1, 8, 10), 3)
    assert torch.autograd.gradcheck(lambda x: segmentation_loss(x, labels), some_logits(1, 3, *resolution))


@ways
@pytest.mark.parametrize("resolution", [(8, 10), (4, 5)])
def test_layout_context_and_compiler_change_nothing(way: str, resolution: tuple[int, int]) -> None:
    logits, labels = some_logits(2, 5, *resolution, dtype=torch.float32), some_labels((2, 8, 10), 5)
    assert_same_when_called(way, segmentation_loss, logits, labels, class_weights=WEIGHTS.float())


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
def test_the_cpu_kernel_sends_nothing_back_from_void_pixels(value: float) -> None:
    labels = some_labels((2, 8, 10), 5)
    void = (labels == 255)[:, None]
    logits = some_logits(dtype=torch.float32).detach().masked_fill(void, value).requires_grad_()
    _, gradient = value_and_gradient(segmentation_loss(logits, labels), logits)
    assert not gradient.masked_select(void).any()


LABELS = torch.zeros(2, 4, 4, dtype=torch.long)


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
        ({"class_weights": torch.ones(4)}, ValueError, r"class_weights must have shape \(3,\), .*got \(4,\)"),
        ({"class_weights": torch.ones(1, 3)}, ValueError, r"class_weights must have shape \(3,\), .*got \(1, 3\)"),
        (
            {"class_weights": torch.ones(3, device="meta")},
            ValueError,
            "class_weights must be on the device of logits, cpu",
        ),
        ({"labels": LABELS.to("meta")}, ValueError, "labels must be on the device of logits, cpu, got meta"),
        ({"class_weights": [1.0, 1.0, 1.0]}, TypeError, "class_weights must be a tensor, got list"),
    ],
)
def test_bad_input_is_an_error_that_names_it(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        segmentation_loss(**{"logits": torch.zeros(2, 3, 4, 4), "labels": LABELS, **changed})
