"""The losses of class logits and labels, each with a plain formula that it must equal."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import helpers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from inverseform_fast.functional import boundary_f1_loss, dice_loss, segmentation_loss

Loss = Callable[..., Tensor]
resolutions = pytest.mark.parametrize("resolution", [(8, 10), (2, 3), (4, 5), (13, 7), (1, 1)], ids=str)


def cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int = 255, class_weights: Tensor | None = None
) -> Tensor:
    return F.cross_entropy(_upsampled(logits, labels), labels.long(), class_weights, ignore_index=ignore_index)


def dice(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """One class after the other, on the valid pixels alone."""
    valid = labels.long() != ignore_index
    p, y = _upsampled(logits, labels).softmax(1).movedim(1, -1)[valid], labels.long()[valid]
    terms = [1 - 2 * p[y == c, c].sum() / (p[:, c].sum() + (y == c).sum()) for c in y.unique().tolist()]
    return torch.stack(terms).mean()


def boundary_f1(logits: Tensor, labels: Tensor, radius: int = 2, ignore_index: int = 255, tolerance: int = 2) -> Tensor:
    """One class after the other, of sums over one pixel after the other."""
    predicted, precise, recalled, true = boundary_sums(logits, labels, radius, ignore_index, tolerance)
    terms = []
    for c in true.nonzero()[:, 0].tolist():
        precision, recall = precise[c] / predicted[c].clamp(min=1e-300), recalled[c] / true[c]
        terms.append(1 - 2 * precision * recall / (precision + recall).clamp(min=1e-300))
    return torch.stack(terms).mean() if terms else 0 * logits.sum()


def boundary_sums(
    logits: Tensor, labels: Tensor, radius: int = 2, ignore_index: int = 255, tolerance: int = 2
) -> Tensor:
    """(4, C): predicted boundary, how much of it is near the true one and how much on it, and the true one."""
    p, labels, classes = _upsampled(logits.double(), labels).softmax(1), labels.long(), torch.arange(logits.shape[1])
    true, known = torch.full_like(labels, -1), torch.zeros_like(labels, dtype=torch.bool)
    for n, y, x in np.ndindex(*labels.shape):
        ids = _window(labels[n], y, x, radius)
        known[n, y, x] = not (ids == ignore_index).any()
        if known[n, y, x] and (ids != labels[n, y, x]).any():
            true[n, y, x] = labels[n, y, x]
    sums = p.new_zeros(4, len(classes))
    for n, y, x in known.nonzero().tolist():
        window = _window(p[n], y, x, radius).flatten(1)
        first = [values.index(min(values)) for values in window.tolist()]
        b = p[n, :, y, x] - window[classes, first]
        near = (classes[:, None] == _window(true[n], y, x, tolerance).flatten()).any(1)
        here = classes == true[n, y, x]
        sums = sums + torch.stack((b, b * near, b * here, here))
    return sums


def _window(maps: Tensor, y: int, x: int, reach: int) -> Tensor:
    return maps[..., max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]


def _upsampled(logits: Tensor, labels: Tensor) -> Tensor:
    return F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)


FORMULAS: dict[Loss, Loss] = {segmentation_loss: cross_entropy, dice_loss: dice, boundary_f1_loss: boundary_f1}
losses = pytest.mark.parametrize("loss", FORMULAS, ids=lambda loss: loss.__name__)


some_labels = partial(helpers.some_labels, share=0.02)  # so little void that many windows of 5 x 5 have none


def some_logits(n: int = 2, c: int = 5, h: int = 8, w: int = 10, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(n, c, h, w, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def value_and_gradient(loss: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    return loss, torch.autograd.grad(loss, logits)[0]


def assert_same(logits: Tensor, actual: Tensor, expected: Tensor) -> None:
    expected = expected.to(actual.dtype)
    torch.testing.assert_close(value_and_gradient(actual, logits), value_and_gradient(expected, logits))
