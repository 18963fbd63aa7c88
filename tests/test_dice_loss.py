"""dice_loss sums over a batch and averages over classes; test_class_losses.py compares it with its formula."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from class_losses import assert_same, dice, some_logits
from helpers import some_labels

from inverseform_fast.functional import dice_loss


def test_classes_that_no_pixel_has_are_left_out() -> None:
    logits, labels = some_logits(c=7), some_labels((2, 8, 10), 3)
    labels = torch.where(labels == 2, 6, labels)  # 2 to 5 are absent
    assert_same(logits, dice_loss(logits, labels), dice(logits, labels))
    assert_same(logits, dice_loss(logits.float(), labels).double(), dice(logits, labels))


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


def test_sums_of_a_million_pixels_are_not_rounded() -> None:
    logits, labels = some_logits(1, 3, 4, 4), some_labels((1, 1024, 1024), 3)
    single = dice_loss(logits.float(), labels).double()
    torch.testing.assert_close(single, dice_loss(logits, labels), rtol=2e-7, atol=0)
