"""The losses that are compared take probabilities; they sum over tiles, so that no start influences another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.studies.alignment.starts import Truth, distances
from inverseform_fast import InverseFormLoss, homography

Loss = Callable[[Tensor, Truth], Tensor]
SURE = 4.0  # logit of a boundary pixel
BETA, GAMMA = 10, 0.3  # the defaults of BoundaryAwareLoss


def title(net: str, distance: str) -> str:
    return f"InverseForm ({net}, {distance})"


def inverseform_losses(nets: Mapping[str, Path]) -> dict[str, Loss]:
    def loss(path: Path, distance: str) -> Loss:
        criterion = InverseFormLoss(path, distance, activation=None, reduction="sum")
        return lambda predicted, truth: criterion(predicted, truth.boundary)

    return {
        title(name, distance): loss(path, distance) for name, path in nets.items() for distance in homography.DISTANCES
    }


def mix(inverseform: Loss) -> Loss:
    return lambda predicted, truth: BETA * balanced_bce(predicted, truth) + GAMMA * inverseform(predicted, truth)


def balanced_bce(predicted: Tensor, truth: Truth) -> Tensor:
    share = truth.boundary.mean((1, 2, 3), keepdim=True)
    weight = torch.where(truth.boundary > 0, 1 - share, share)
    # The probabilities are kept to those of logits within SURE, because the loss of a certain 0 or 1 is infinite.
    low = torch.tensor(-SURE).sigmoid()
    unsure = low + (1 - 2 * low) * predicted
    return F.binary_cross_entropy(unsure, truth.boundary, weight, reduction="none").mean((1, 2, 3)).sum()


def mse(predicted: Tensor, truth: Truth) -> Tensor:
    return (predicted - truth.boundary).square().mean((1, 2, 3)).sum()


def soft_dice(predicted: Tensor, truth: Truth) -> Tensor:
    intersection = (predicted * truth.boundary).sum((1, 2, 3))
    return (1 - 2 * intersection / (predicted + truth.boundary).sum((1, 2, 3))).sum()


def signed_distance(predicted: Tensor, truth: Truth) -> Tensor:
    """Kervadec et al., Boundary loss for highly unbalanced segmentation, 2019."""
    return (predicted * (truth.outside - (truth.inside - 1).clamp(min=0))).mean((1, 2, 3)).sum()


def hausdorff(predicted: Tensor, truth: Truth) -> Tensor:
    """Karimi and Salcudean, Reducing the Hausdorff distance in medical image segmentation, 2019; alpha = 2."""
    outside, inside = distances(predicted.detach() > 0.5)
    field = (outside + inside).square() + (truth.outside + truth.inside).square()
    return ((predicted - truth.boundary).square() * field).mean((1, 2, 3)).sum()


OTHERS: dict[str, Loss] = {
    "balanced BCE": balanced_bce,
    "MSE": mse,
    "soft Dice": soft_dice,
    "signed distance": signed_distance,
    "Hausdorff-DT": hausdorff,
}
