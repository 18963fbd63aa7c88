"""dice_loss sums over a batch and averages over classes; test_class_losses.py compares it with its formula."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from class_losses import assert_same, dice, some_logits, value_and_gradient
from helpers import some_labels

from inverseform_fast.functional import dice_loss, dice_sums


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


def test_the_sums_are_those_of_the_definition() -> None:
    logits, labels = some_logits(2, 5), some_labels((2, 8, 10), 5)
    p, y = logits.softmax(1).movedim(1, -1)[labels != 255], F.one_hot(labels[labels != 255], 5)
    expected = torch.stack(((p * y).sum(0), p.sum(0), y.sum(0)))
    for each in (logits, logits.float()):
        sums = dice_sums(each, labels)
        torch.testing.assert_close(sums, expected.detach(), rtol=1e-6, atol=0)
        assert not sums.requires_grad


def test_a_part_has_the_loss_of_the_batch_and_its_own_share_of_the_gradient() -> None:
    logits, labels = some_logits(3), some_labels((3, 8, 10), 5)
    labels[0] = 255
    for whole in (logits, logits.float()):
        loss, gradient = value_and_gradient(dice_loss(whole, labels), whole)
        parts = list(zip(whole.split([1, 2]), labels.split([1, 2]), strict=True))
        sums = torch.stack([dice_sums(*part) for part in parts]).sum(0)
        found = [value_and_gradient(dice_loss(*part, sums=sums), part[0]) for part in parts]
        torch.testing.assert_close([value for value, _ in found], [loss, loss])
        torch.testing.assert_close(torch.cat([each for _, each in found]), gradient)


def test_sums_of_a_million_pixels_are_not_rounded() -> None:
    logits, labels = some_logits(1, 3, 4, 4), some_labels((1, 1024, 1024), 3)
    single = dice_loss(logits.float(), labels).double()
    torch.testing.assert_close(single, dice_loss(logits, labels), rtol=2e-7, atol=0)
