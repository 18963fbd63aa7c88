"""The losses of class logits and labels, each with a plain formula that it must equal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from inverseform_fast.functional import dice_loss, segmentation_loss

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


def _upsampled(logits: Tensor, labels: Tensor) -> Tensor:
    return F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)


FORMULAS: dict[Loss, Loss] = {segmentation_loss: cross_entropy, dice_loss: dice}
losses = pytest.mark.parametrize("loss", FORMULAS, ids=lambda loss: loss.__name__)


def some_logits(n: int = 2, c: int = 5, h: int = 8, w: int = 10, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(n, c, h, w, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def value_and_gradient(loss: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    return loss, torch.autograd.grad(loss, logits)[0]


def assert_same(logits: Tensor, actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value_and_gradient(actual, logits), value_and_gradient(expected, logits))
