"""dice_loss equals its formula, evaluated class by class, in values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same_when_called, some_labels, ways
from torch import Tensor

from inverseform_fast.checks import LABEL_DTYPES
from inverseform_fast.functional import dice_loss

resolutions = pytest.mark.parametrize("resolution", [(8, 10), (2, 3), (4, 5), (13, 7), (1, 1)], ids=str)


def some_logits(n: int = 2, c: int = 5, h: int = 8, w: int = 10, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(n, c, h, w, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def by_formula(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """One class after the other, on the valid pixels alone."""
    upsampled = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    valid = labels.long() != ignore_index
    p, y = upsampled.softmax(1).movedim(1, -1)[valid], labels.long()[valid]
    terms = [1 - 2 * p[y == c, c].sum() / (p[:, c].sum() + (y == c).sum()) for c in y.unique().tolist()]
    return torch.stack(terms).mean()


def value_and_gradient(loss: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    return loss, torch.autograd.grad(loss, logits)[0]


def assert_same(logits: Tensor, actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value_and_gradient(actual, logits), value_and_gradient(expected, logits))


@resolutions
def test_the_formula(resolution: tuple[int, int]) -> None:
    logits, labels = some_logits(2, 5, *resolution), some_labels((2, 8, 10), 5)
    assert_same(logits, dice_loss(logits, labels), by_formula(logits, labels))


def test_classes_that_no_pixel_has_are_left_out() -> None:
    logits, labels = some_logits(c=7), some_labels((2, 8, 10), 3)
    labels = torch.where(labels == 2, 6, labels)  # 2 to 5 are absent
    assert_same(logits, dice_loss(logits, labels), by_formula(logits, labels))


@pytest.mark.parametrize("dtype", LABEL_DTYPES, ids=str)
@pytest.mark.parametrize("ignore_index", [100, 0, 3])
def test_labels_of_every_integer_type_and_any_void_id(dtype: torch.dtype, ignore_index: int) -> None:
    logits, labels = some_logits(), some_labels((2, 8, 10), 5, void=ignore_index).to(dtype)
    assert_same(logits, dice_loss(logits, labels, ignore_index), by_formula(logits, labels, ignore_index))


@pytest.mark.parametrize("ignore_index", [-1, -100, 7, 70000])
def test_void_ids_outside_the_classes(ignore_index: int) -> None:
    logits, labels = some_logits(), some_labels((2, 8, 10), 5, void=ignore_index)
    assert_same(logits, dice_loss(logits, labels, ignore_index), by_formula(logits, labels, ignore_index))


def test_a_void_id_that_the_type_cannot_hold_marks_nothing() -> None:
    logits, labels = some_logits(1, 256, 3, 4), torch.full((1, 3, 4), 156, dtype=torch.uint8)  # -100 + 256
    assert_same(logits, dice_loss(logits, labels, -100), by_formula(logits, labels, -100))


def test_perfect_and_hopeless_predictions() -> None:
    labels = some_labels((2, 8, 10), 5, void=None)
    right = 1e4 * F.one_hot(labels, 5).movedim(-1, 1).float()
    assert dice_loss(right, labels) == 0
    assert dice_loss(-right, labels) == 1


def test_a_small_class_counts_as_much_as_a_large_one() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[0, 0, 0] = 1
    blind = torch.stack([torch.full((1, 8, 8), 50.0), torch.zeros(1, 8, 8)], 1)  # it sees class 0 everywhere
    torch.testing.assert_close(dice_loss(blind, labels), torch.tensor((1 - 126 / 127 + 1) / 2))


@pytest.mark.parametrize("shape", [(2, 8, 10), (2, 4, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_all_void_batch_gives_zero_with_zero_gradients(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    logits = some_logits(dtype=dtype)
    loss, gradient = value_and_gradient(dice_loss(logits, torch.full(shape, 255)) * 65536, logits)
    assert loss == 0
    assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_empty_batch_gives_zero_and_can_be_trained_on(dtype: torch.dtype) -> None:
    logits = some_logits(0, dtype=dtype)
    loss, gradient = value_and_gradient(dice_loss(logits, torch.zeros(0, 8, 10, dtype=torch.long)), logits)
    assert loss == 0
    assert gradient.shape == logits.shape


@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
@pytest.mark.parametrize("classes", [slice(0, 1), slice(0, 5)], ids=["one class", "all classes"])
def test_what_is_not_finite_in_void_pixels_stays_there(value: float, classes: slice) -> None:
    logits, labels = some_logits(), some_labels((2, 8, 10), 5)
    valid = (labels != 255)[:, None]
    broken = logits.detach().clone()
    broken[:, classes] = torch.where(valid, broken[:, classes], value)
    loss, gradient = value_and_gradient(dice_loss(broken.requires_grad_(), labels), broken)
    expected, expected_gradient = value_and_gradient(dice_loss(logits, labels), logits)
    torch.testing.assert_close((loss, torch.where(valid, gradient, 0)), (expected, expected_gradient))


def test_a_masked_class_that_no_pixel_has() -> None:
    logits, labels = some_logits(c=4), some_labels((2, 8, 10), 4)
    masked = torch.cat([logits, torch.full_like(logits[:, :1], -torch.inf)], 1)
    assert_same(logits, dice_loss(masked, labels), dice_loss(logits, labels))


def test_a_single_class_is_always_right() -> None:
    logits, labels = some_logits(c=1), some_labels((2, 8, 10), 1)
    loss, gradient = value_and_gradient(dice_loss(logits, labels), logits)
    assert loss == 0
    assert not gradient.any()


@resolutions
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, resolution: tuple[int, int]) -> None:
    logits, labels = some_logits(2, 5, *resolution, dtype=dtype), some_labels((2, 8, 10), 5)
    loss = dice_loss(logits, labels)
    assert loss.dtype == torch.float32
    assert torch.autograd.grad(loss, logits, retain_graph=True)[0].dtype == dtype
    assert_same(logits, loss, by_formula(logits.float(), labels))


@resolutions
def test_the_gradient_agrees_with_differences(resolution: tuple[int, int]) -> None:
    labels = some_labels((1, 8, 10), 3)
    assert torch.autograd.gradcheck(lambda x: dice_loss(x, labels), some_logits(1, 3, *resolution))


@ways
@pytest.mark.parametrize("resolution", [(8, 10), (4, 5)])
def test_layout_context_and_compiler_change_nothing(way: str, resolution: tuple[int, int]) -> None:
    logits, labels = some_logits(2, 5, *resolution, dtype=torch.float32), some_labels((2, 8, 10), 5)
    assert_same_when_called(way, dice_loss, logits, labels)


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
def test_the_cpu_kernel_sends_nothing_back_from_void_pixels(value: float) -> None:
    labels = some_labels((2, 8, 10), 5)
    void = (labels == 255)[:, None]
    logits = some_logits(dtype=torch.float32).detach().masked_fill(void, value).requires_grad_()
    _, gradient = value_and_gradient(dice_loss(logits, labels), logits)
    assert not gradient.masked_select(void).any()


LABELS = torch.zeros(2, 4, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"logits": torch.zeros(2, 4, 4)}, ValueError, r"logits must have shape \(N, C, h, w\), got \(2, 4, 4\)"),
        ({"logits": torch.zeros(2, 3, 4, 4).long()}, TypeError, "logits must be floating point, got torch.int64"),
        ({"labels": LABELS.float()}, TypeError, "labels must be of an integer dtype.*, got torch.float32"),
        ({"labels": LABELS[:1]}, ValueError, r"labels must have shape \(2, H, W\), got \(1, 4, 4\)"),
        ({"labels": LABELS + 3}, ValueError, r"labels must lie in \[0, 3\) or be ignore_index=255, found \[3\]"),
        ({"labels": LABELS - 1}, ValueError, r"labels must lie in \[0, 3\) or be ignore_index=255, found \[-1\]"),
        ({"labels": LABELS.to("meta")}, ValueError, "labels must be on the device of logits, cpu, got meta"),
    ],
)
def test_bad_input_is_an_error_that_names_it(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dice_loss(**{"logits": torch.zeros(2, 3, 4, 4), "labels": LABELS, **changed})
