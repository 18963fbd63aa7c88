"""The kernels of register_labels against the reference in float64.

Steps that help and steps that fail are told apart by comparing numbers, so the kernels are compared where the climb has
come to rest: they must find the same place.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import deterministic
from three_way import DEVICE
from torch import Tensor

from inverseform_fast import reference
from inverseform_fast.functional import register_labels
from inverseform_fast.ops.backend import INTERPRETED

pytestmark = pytest.mark.kernel
CLASSES = 4


def scene(height: int, width: int, cells: tuple[int, int] = (56, 56)) -> tuple[Tensor, Tensor]:
    """Logits of a model that sees patches where they are, and labels that lie 6 pixels beside them, with void."""
    patches = torch.randint(CLASSES, (1, height // 40 + 1, width // 40 + 1))
    truth = patches.repeat_interleave(40, 1).repeat_interleave(40, 2)[:, :height, :width]
    logits = 6 * F.interpolate(F.one_hot(truth, CLASSES).movedim(-1, 1).float(), cells, mode="area")
    labels = truth.roll((4, -6), (1, 2)).masked_fill(torch.rand(truth.shape) < 0.05, 255)
    return logits.to(DEVICE), labels.to(DEVICE)


def assert_registered_alike(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    with deterministic():  # new tensors hold NaN until a kernel writes them
        found = register_labels(logits, labels, ignore_index)
    expected = reference.register_labels(logits.double(), labels, ignore_index)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=2e-5)  # half tiles: 0.002 pixels
    return found


def test_the_kernels_find_what_the_reference_finds() -> None:
    assert assert_registered_alike(*scene(224, 200)).any()


@pytest.mark.parametrize(
    ("size", "cells"),
    [((224, 448), (56, 112)), ((500, 230), (130, 58)), ((60, 90), (15, 22)), ((224, 224), (300, 290))],
)
def test_several_tiles_and_other_resolutions(size: tuple[int, int], cells: tuple[int, int]) -> None:
    assert_registered_alike(*scene(*size, cells))


@pytest.mark.parametrize("cells", [(1, 1), (2, 1), (1, 30)], ids=str)
def test_few_cells(cells: tuple[int, int]) -> None:
    assert_registered_alike(*scene(224, 224, cells))


@pytest.mark.parametrize(
    ("dtype", "ignore_index"),
    [(torch.uint8, 255), (torch.int16, 255), (torch.int32, -7), (torch.int64, 2**40)],
    ids=str,
)
def test_labels_of_any_dtype_and_void(dtype: torch.dtype, ignore_index: int) -> None:
    logits, labels = scene(224, 224)
    labels = labels.to(dtype if torch.iinfo(dtype).max >= 255 else torch.int16).where(labels != 255, ignore_index)
    assert assert_registered_alike(logits, labels.to(dtype), ignore_index).any()


def test_layout_and_dtype_of_logits_change_nothing() -> None:
    logits, labels = scene(224, 224)
    logits = logits.bfloat16()
    found = assert_registered_alike(logits, labels)
    last = logits.contiguous(memory_format=torch.channels_last)
    assert torch.equal(register_labels(last, labels.mT.contiguous().mT), found)


def test_nothing_is_said_of_one_class_and_of_a_prediction_without_slopes() -> None:
    logits, labels = scene(224, 224)
    pairs = [(logits, torch.full_like(labels, 2)), (logits, torch.full_like(labels, 255)), (0 * logits, labels)]
    for prediction, given in pairs:
        assert not register_labels(prediction, given).any()


def test_the_same_readings_are_noise() -> None:
    """Labels that are drawn from an unsure prediction and lie six pixels beside it, which is just above the noise."""
    n = 4 if INTERPRETED else 40  # Triton's interpreter takes seconds a tile
    logits = F.interpolate(torch.randn(n, CLASSES, 8, 8), (56, 56), mode="bilinear").to(DEVICE)
    blocks = F.interpolate(logits, (28, 28), mode="area").softmax(1).movedim(1, -1)
    drawn = torch.multinomial(blocks.flatten(0, 2), 1).view(n, 28, 28)
    labels = drawn.repeat_interleave(8, 1).repeat_interleave(8, 2).roll(6, -1)
    found, expected = register_labels(logits, labels), reference.register_labels(logits.double(), labels)
    assert torch.equal(found.any(-1), expected.any(-1))
    assert 0 < expected.any(-1).sum() < n or n < 40


def test_impossible_classes_and_an_empty_batch() -> None:
    logits, labels = scene(224, 224)
    logits[:, 3] = -torch.inf
    assert_registered_alike(logits, labels)
    assert register_labels(logits[:0], labels[:0]).shape == (0, 1, 1, 8)
