"""segmentation_loss equals F.cross_entropy with class weights, too; test_class_losses.py compares it without them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from class_losses import assert_same, cross_entropy, resolutions, some_logits
from helpers import assert_same_when_called, some_labels, ways

from inverseform_fast.functional import segmentation_loss

WEIGHTS = torch.tensor([0.5, 1.0, 3.0, 0.0, 2.0], dtype=torch.float64)


@resolutions
@pytest.mark.parametrize("ignore_index", [255, 3])
def test_class_weights(resolution: tuple[int, int], ignore_index: int) -> None:
    logits, labels = some_logits(2, 5, *resolution), some_labels((2, 8, 10), 5, void=ignore_index)
    actual = segmentation_loss(logits, labels, WEIGHTS, ignore_index)
    assert_same(logits, actual, cross_entropy(logits, labels, ignore_index, WEIGHTS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_class_weights_of_half_precision(dtype: torch.dtype) -> None:
    logits, labels = some_logits(2, 5, 4, 5, dtype=dtype), some_labels((2, 8, 10), 5)
    actual = segmentation_loss(logits, labels, WEIGHTS.to(dtype))
    assert_same(logits, actual, cross_entropy(logits.float(), labels, class_weights=WEIGHTS.float()))


@ways
def test_layout_context_and_compiler_change_nothing_about_class_weights(way: str) -> None:
    logits, labels = some_logits(2, 5, 4, 5, dtype=torch.float32), some_labels((2, 8, 10), 5)
    assert_same_when_called(way, segmentation_loss, logits, labels, class_weights=WEIGHTS.float())


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_large_logits(scale: float) -> None:
    labels = some_labels((2, 8, 10), 5, void=None)
    right = scale * F.one_hot(labels, 5).movedim(-1, 1).float()
    assert segmentation_loss(right, labels) == 0
    torch.testing.assert_close(segmentation_loss(-right, labels).item(), scale + math.log(4), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (torch.ones(4), ValueError, r"class_weights must have shape \(3,\), .*got \(4,\)"),
        (torch.ones(1, 3), ValueError, r"class_weights must have shape \(3,\), .*got \(1, 3\)"),
        (torch.ones(3, device="meta"), ValueError, "class_weights must be on the device of logits, cpu"),
        ([1.0, 1.0, 1.0], TypeError, "class_weights must be a tensor, got list"),
    ],
)
def test_bad_class_weights_are_an_error_that_names_them(
    weights: torch.Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        segmentation_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long), weights)
