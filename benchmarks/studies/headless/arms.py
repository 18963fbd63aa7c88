"""The losses that are compared, as data: each with its formula and the weights that are tried for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from benchmarks.studies.headless.rivals import (
    active_boundary,
    boundary_f1,
    hausdorff,
    lovasz_softmax,
    probability_gradient,
    relaxed_cross_entropy,
    signed_distance,
)
from benchmarks.studies.headless.terms import (
    boundary_cross_entropy,
    boundary_dice,
    boundary_f1_classes,
    cross_entropy,
    dice,
    headless,
    headless_per_class,
    inverseform,
    random_direction,
)
from inverseform_fast import BoundaryAwareLoss

Weights = tuple[float, ...]
Loss = Callable[[Mapping[str, Tensor], Tensor], Tensor]  # of a model's predictions and the labels
Term = Callable[[Tensor, Tensor], Tensor]  # of logits and labels


@dataclass(frozen=True)
class Arm:
    """A loss.

    Attributes:
        name: in tables.
        formula: in the page, with w, or w1 and w2, for the weights.
        weights: that are tried, at least three for each arm but cross-entropy; more where the best was the largest.
        make: makes the loss of weights.
        ours: whether it is proposed here; the others are rivals.
        main: whether it is trained with every seed.
        boundary_head: whether the model has one.
    """

    name: str
    formula: str
    weights: tuple[Weights, ...]
    make: Callable[[Weights], Loss]
    ours: bool = False
    main: bool = False
    boundary_head: bool = False


def added(*terms: Term) -> Callable[[Weights], Loss]:
    """Cross-entropy and weighted terms."""

    def make(weights: Weights) -> Loss:
        def loss(predictions: Mapping[str, Tensor], labels: Tensor) -> Tensor:
            logits = predictions["semantic"]
            total = cross_entropy(logits, labels)
            for weight, term in zip(weights, terms, strict=True):
                total = total + weight * term(logits, labels)
            return total

        return loss

    return make


def relaxed(weights: Weights) -> Loss:
    term = partial(relaxed_cross_entropy, radius=int(weights[0]))
    return lambda predictions, labels: term(predictions["semantic"], labels)


def with_head(weights: Weights, edge: float = 0, dice: float = 0, f1: float = 0) -> Loss:
    """The package's loss; without a second weight it has no InverseForm."""
    beta, gamma = weights if len(weights) == 2 else (*weights, 0.0)
    whole = BoundaryAwareLoss(beta=beta, gamma=gamma, edge=edge, dice=dice, f1=f1)
    return lambda predictions, labels: whole(predictions["semantic"], labels, predictions["boundary"]).total


def beside(term: Term) -> Callable[[Weights], Loss]:
    """The package's default without a head, and a weighted term."""
    return lambda weights: added(dice, boundary_cross_entropy, boundary_f1_classes, term)((4, 4, 16, *weights))


def each(*values: float) -> tuple[Weights, ...]:
    return tuple((value,) for value in values)


# In the order in which they are trained, quick ones first.
ARMS = {
    "ce": Arm("cross-entropy", "CE", ((),), added(), main=True),
    "dice-per-class": Arm(
        "+ Dice + headless BCE per class", "CE + w1 Dice + w2 BCE_c", ((1, 3), (1, 1), (1, 6)),
        added(dice, headless_per_class), ours=True,
    ),
    "dice-edge-headless": Arm(
        "+ Dice + boundary CE + headless BCE", "CE + w1 Dice + w2 CE_b + w3 BCE", ((1, 1, 1), (1, 1, 2), (1, 2, 2)),
        added(dice, boundary_cross_entropy, headless), ours=True, main=True,
    ),
    "dice": Arm("+ Dice", "CE + w Dice", each(1, 0.5, 2, 4, 8, 16), added(dice), main=True),
    "dice-headless": Arm(
        "+ Dice + headless BCE", "CE + w1 Dice + w2 BCE", ((1, 1), (1, 0.3), (1, 3)), added(dice, headless),
        ours=True, main=True,
    ),
    "per-class": Arm(
        "+ headless BCE per class", "CE + w BCE_c", each(3, 1, 6), added(headless_per_class), ours=True
    ),
    "headless": Arm("+ headless BCE", "CE + w BCE", each(1, 0.3, 3), added(headless), ours=True, main=True),
    "edge": Arm("+ boundary CE", "CE + w CE_b", each(1, 0.5, 2, 4, 8), added(boundary_cross_entropy), main=True),
    "dice-edge": Arm(
        "+ Dice + boundary CE", "CE + w1 Dice + w2 CE_b", ((1, 1), (1, 0.5), (1, 2), (1, 4), (2, 4), (4, 8)),
        added(dice, boundary_cross_entropy), main=True,
    ),
    "dice-edge-f1": Arm(
        "+ Dice + boundary CE + boundary F1", "CE + w1 Dice + w2 CE_b + w3 F1",
        ((1, 1, 8), (1, 1, 4), (1, 2, 8), (1, 2, 16), (1, 4, 8), (1, 4, 16), (4, 4, 16), (8, 4, 16)),
        added(dice, boundary_cross_entropy, boundary_f1_classes), ours=True, main=True,
    ),
    "with-inverseform": Arm(
        "+ Dice + boundary CE + boundary F1 + InverseForm", "CE + 4 Dice + 4 CE_b + 16 F1 + w IF", each(0.3, 0.1, 1),
        beside(inverseform), ours=True, main=True,
    ),
    "with-predictions": Arm(
        "+ Dice + boundary CE + boundary F1 + InverseForm, *predictions*", "CE + 4 Dice + 4 CE_b + 16 F1 + w IF_p",
        each(0.3, 0.1, 1), beside(partial(inverseform, net="predictions")), ours=True, main=True,
    ),
    "with-random": Arm(
        "+ Dice + boundary CE + boundary F1 + random direction", "CE + 4 Dice + 4 CE_b + 16 F1 + w random",
        each(0.3, 0.1, 1), beside(random_direction), main=True,
    ),
    "relaxed": Arm("boundary label relaxation", "relaxed CE, w px", each(1, 2, 3), relaxed, main=True),
    "head": Arm(
        "+ boundary head, BCE", "CE + w BCE of the head", each(10, 3, 30), with_head, main=True, boundary_head=True
    ),
    "dice-edge-head": Arm(
        "+ Dice + boundary CE + boundary F1 + boundary head, BCE", "CE + 4 Dice + 4 CE_b + 16 F1 + w BCE of the head",
        each(10, 3, 30),
        partial(with_head, edge=4, dice=4, f1=16), ours=True, boundary_head=True,
    ),
    "boundary-dice": Arm("+ Dice of the soft boundary", "CE + w Dice_b", each(0.5, 0.25, 1), added(boundary_dice)),
    "paper": Arm(
        "+ boundary head, BCE, InverseForm", "CE + w1 BCE of the head + w2 IF", ((10, 0.3), (10, 0.1), (10, 1)),
        with_head, main=True, boundary_head=True,
    ),
    "lovasz": Arm("+ Lovász-softmax", "CE + w Lovász", each(1, 0.5, 2, 4, 8), added(lovasz_softmax), main=True),
    "active": Arm(
        "+ Lovász-softmax + active boundary loss", "CE + w1 Lovász + w2 ABL", ((1, 1), (1, 0.5), (1, 2)),
        added(lovasz_softmax, active_boundary), main=True,
    ),
    "cpg": Arm(
        "+ probability gradient", "CE + w (1 - cos of gradients)", each(1, 0.3, 3), added(probability_gradient),
        main=True,
    ),
    "distance": Arm(
        "+ boundary loss (Kervadec)", "CE + w sum_c phi_c p_c", each(0.01, 0.003, 0.03), added(signed_distance),
        main=True,
    ),
    "boundary-f1": Arm(
        "+ differentiable boundary F1", "CE + w (1 - F1)", each(1, 0.5, 2, 4, 8, 16), added(boundary_f1), main=True
    ),
    "hausdorff": Arm(
        "+ Hausdorff-DT", "CE + w (p - y)^2 (d_p^2 + d_y^2)", each(1e-3, 1e-4, 1e-2), added(hausdorff), main=True
    ),
}  # fmt: skip
