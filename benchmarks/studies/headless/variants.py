"""Other forms of the headless term and of what stands beside it, each tried once on held-out frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from benchmarks.studies.headless.arms import Arm, Term, added
from benchmarks.studies.headless.rivals import boundary_f1, lovasz_softmax
from benchmarks.studies.headless.study import Study
from benchmarks.studies.headless.terms import (
    EPS,
    VOID,
    boundary_cross_entropy,
    boundary_dice,
    cross_entropy,
    dice,
    headless,
    headless_per_class,
    log_probabilities,
)
from inverseform_fast.functional import boundary_map, soft_boundary_map


def multi_radius(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of the headless terms of radius 1, 2 and 3."""
    return torch.stack([headless(logits, labels, radius) for radius in (1, 2, 3)]).mean()


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """The headless term with the focal factor (1 - probability of the truth)^2 at every pixel."""
    soft, true = _soft_and_true(logits, labels)
    yes, no = true == 1, true == 0
    return _balanced((1 - soft[yes]).square() * -soft[yes].log(), soft[no].square() * -(1 - soft[no]).log())


def class_balanced(logits: Tensor, labels: Tensor) -> Tensor:
    """The headless term over the pixels of each class, mean over the classes present."""
    soft, true = _soft_and_true(logits, labels)
    terms = []
    for c in labels[labels != VOID].unique():
        yes, no = (true == 1) & (labels == c), (true == 0) & (labels == c)
        terms.append(_balanced(-soft[yes].log(), -(1 - soft[no]).log()))
    return torch.stack(terms).mean()


def pairwise(logits: Tensor, labels: Tensor, radius: int = 2) -> Tensor:
    """Balanced BCE of pairs of neighbours instead of pixels: are both of one class? Agreement is Bhattacharyya's."""
    root, apart, together = (log_probabilities(logits, labels) / 2).exp(), [], []
    for dy, dx in _half_disk(radius):
        (a, b), (mine, theirs) = _neighbours(root, dy, dx), _neighbours(labels, dy, dx)
        agreement, valid = (a * b).sum(1).clamp(EPS, 1 - EPS), (mine != VOID) & (theirs != VOID)
        apart.append(-(1 - agreement[valid & (mine != theirs)]).log())
        together.append(-agreement[valid & (mine == theirs)].log())
    return _balanced(torch.cat(apart), torch.cat(together))


def class_mean_boundary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the true boundary's pixels of each class, mean over the classes present."""
    edge = torch.where(boundary_map(labels) == 1, labels, VOID)
    present = edge[edge != VOID].unique()
    return torch.stack([cross_entropy(logits, torch.where(edge == c, edge, VOID)) for c in present]).mean()


def _soft_and_true(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return soft_boundary_map(logits, labels.shape[-2:])[:, 0].clamp(EPS, 1 - EPS), boundary_map(labels)


def _balanced(yes: Tensor, no: Tensor) -> Tensor:
    """The losses of the two kinds, each weighted by the other's share, over their number."""
    count = max(1, len(yes) + len(no))
    return (len(no) * yes.sum() + len(yes) * no.sum()) / count**2


def _half_disk(radius: int) -> Iterator[tuple[int, int]]:
    """Offsets (dy, dx) of neighbours, one of each two opposite ones."""
    for dy in range(radius + 1):
        yield from ((dy, dx) for dx in range(-radius, radius + 1) if (dy, dx) > (0, 0) and dy**2 + dx**2 <= radius**2)


def _neighbours(maps: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    """The pixels of maps (..., H, W) that have a neighbour at this offset, and these neighbours."""
    height, width = maps.shape[-2:]
    left, right = max(0, -dx), max(0, dx)
    return maps[..., : height - dy, left : width - right], maps[..., dy:, right : width - left]


TERMS: dict[str, Term] = {
    "Dice": dice,
    "Lovász": lovasz_softmax,
    "BCE": headless,
    "BCE, radius 1": partial(headless, radius=1),
    "BCE, radius 3": partial(headless, radius=3),
    "BCE, radii 1 to 3": multi_radius,
    "focal BCE": focal,
    "BCE by class of the pixel": class_balanced,
    "BCE per class": headless_per_class,
    "BCE of pairs": pairwise,
    "Dice_b": boundary_dice,
    "boundary F1": boundary_f1,
    "CE_b": boundary_cross_entropy,
    "CE_b, radius 1": partial(boundary_cross_entropy, radius=1),
    "CE_b, radius 4": partial(boundary_cross_entropy, radius=4),
    "CE_b, class mean": class_mean_boundary_cross_entropy,
}
_BASE: dict[str, float] = {"Dice": 1, "BCE": 1}
_WEIGHTS: tuple[dict[str, float], ...] = (
    # the target and the comparison of the headless term
    _BASE,
    {"Dice": 1, "BCE, radius 1": 1},
    {"Dice": 1, "BCE, radius 3": 1},
    {"Dice": 1, "BCE, radii 1 to 3": 1},
    {"Dice": 1, "focal BCE": 3},
    {"Dice": 1, "BCE by class of the pixel": 1},
    {"Dice": 1, "BCE per class": 3},
    {"Dice": 1, "BCE of pairs": 1},
    {"Dice": 1, "BCE of pairs": 3},
    {"Dice": 1, "Dice_b": 1},
    {"Dice": 1, "boundary F1": 1},
    # with cross-entropy of the boundary's pixels
    {"Dice": 1, "CE_b": 0.5},
    {**_BASE, "CE_b": 0.5},
    {**_BASE, "CE_b": 1},
    {**_BASE, "CE_b": 2},
    {**_BASE, "CE_b, radius 1": 0.5},
    {**_BASE, "CE_b, radius 4": 0.5},
    {**_BASE, "CE_b, class mean": 0.5},
    {"Dice": 1, "BCE of pairs": 2, "CE_b": 0.5},
    {"Dice": 1, "BCE per class": 3, "CE_b": 1},
    {"Dice": 1, "BCE": 2, "CE_b": 1},
    {"Dice": 2, "BCE": 2, "CE_b": 1},
    # the region term
    {"Lovász": 1, "BCE": 1},
    {"Lovász": 1, "BCE": 1, "CE_b": 0.5},
    {"BCE": 1, "CE_b": 1},
)


def variant(weights: dict[str, float]) -> Arm:
    """Cross-entropy and the terms with these weights."""
    name = " + ".join(f"{weight:g} {term}" for term, weight in weights.items())
    return Arm(name, f"CE + {name}", (tuple(weights.values()),), added(*(TERMS[term] for term in weights)), ours=True)


VARIANTS = {arm.name: arm for arm in map(variant, _WEIGHTS)}


@dataclass
class VariantStudy(Study):
    """Of every variant one training, scored on held-out frames."""

    arms: Mapping[str, Arm] = field(default_factory=lambda: VARIANTS)
    seeds: Sequence[int] = ()
