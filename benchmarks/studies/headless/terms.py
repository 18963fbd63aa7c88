"""Terms of a loss that need no boundary head: scalars of logits (N, C, h, w) and labels (N, H, W), 255 for void."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from inverseform_fast import InverseFormLoss
from inverseform_fast.functional import (
    boundary_f1_loss,
    boundary_loss,
    boundary_map,
    dice_loss,
    segmentation_loss,
    soft_boundary_map,
)

VOID = 255
EPS = 1e-6  # probabilities keep so far away from 0 and 1 where their logit is taken


def log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, C, H, W) at the labels' resolution."""
    return F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False).log_softmax(1)


def probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    return log_probabilities(logits, labels).exp()


def truth_of(labels: Tensor, classes: int) -> Tensor:
    """(N, C, H, W) bool, where each class is; void is no class."""
    return labels[:, None] == torch.arange(classes)[:, None, None]


def classes_present(labels: Tensor) -> list[int]:
    return [c for c in labels.unique().tolist() if c != VOID]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return segmentation_loss(logits, labels, ignore_index=VOID)


def boundary_cross_entropy(logits: Tensor, labels: Tensor, radius: int = 2) -> Tensor:
    """Cross-entropy of the pixels of the true boundary alone."""
    return cross_entropy(logits, torch.where(boundary_map(labels, radius) == 1, labels, VOID))


def headless(logits: Tensor, labels: Tensor, radius: int = 2) -> Tensor:
    """Balanced BCE of the soft boundary of all classes together: the package's boundary term without a head."""
    return boundary_loss(soft_boundary_map(logits, labels.shape[-2:], radius).logit(eps=EPS), labels, radius)


def inverseform(logits: Tensor, labels: Tensor, net: str = "compact") -> Tensor:
    """InverseForm of the soft boundary of all classes together, with a shipped network."""
    soft = soft_boundary_map(logits, labels.shape[-2:])
    return _inverseform(net)(soft, boundary_map(labels)[:, None])


@cache
def _inverseform(net: str) -> InverseFormLoss:
    return InverseFormLoss(net, activation=None)


def random_direction(logits: Tensor, labels: Tensor) -> Tensor:
    """A term with InverseForm's gradient, each of whose numbers has a random sign: as long, and at the same places."""
    with torch.enable_grad():
        known = logits.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(inverseform(known, labels), known)
    return (logits * gradient * torch.randint_like(gradient, 2).mul(2).sub(1)).sum()


def headless_per_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Balanced BCE of each class's own soft boundary against the boundary of its mask, mean over the classes present.

    A class's soft boundary is that of two classes, it and all others together. Void stays void.
    """
    # The maps are not sliced below, because the gradient of a slice is as large as the whole.
    predicted = probabilities(logits, labels).clamp(EPS, 1 - EPS).unbind(1)
    terms = []
    for c in classes_present(labels):
        mine = predicted[c][:, None]
        soft = soft_boundary_map(torch.cat((mine.log(), (1 - mine).log()), 1))
        target = torch.where(labels == VOID, labels, (labels == c).to(labels.dtype))
        terms.append(boundary_loss(soft.logit(eps=EPS), target))
    return torch.stack(terms).mean()


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - 2 sum p y / (sum p + sum y) over the batch's valid pixels, mean over the classes present."""
    return dice_loss(logits, labels, VOID)


def boundary_f1_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - F1 of each class's boundary with sums over the batch, mean over the classes that have one."""
    return boundary_f1_loss(logits, labels, ignore_index=VOID)


def boundary_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Dice of the soft boundary of all classes together with the true boundary, over the batch's valid pixels."""
    true = boundary_map(labels)
    predicted = soft_boundary_map(logits, labels.shape[-2:])[:, 0] * (true != VOID)
    return 1 - 2 * predicted[true == 1].sum() / (predicted.sum() + (true == 1).sum()).clamp(min=EPS)
