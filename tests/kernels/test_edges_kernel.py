"""The kernels agree with the reference on what is infinite, huge or void; tests/test_edges.py says more of C++."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from three_way import DEVICE, random, random_labels
from torch import Tensor

import inverseform_fast as iff
from inverseform_fast import functional

pytestmark = pytest.mark.kernel(each=False)
INF = float("inf")
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "segmentation_loss": functional.segmentation_loss,
    "dice_loss": functional.dice_loss,
    "boundary_f1_loss": functional.boundary_f1_loss,
    "boundary_loss": lambda x, y: functional.boundary_loss(x[:, :1], y),
    "soft_boundary_map": lambda x, y: functional.soft_boundary_map(x, y.shape[1:], 1).mean(),
}
losses = pytest.mark.parametrize("name", LOSSES)


def assert_as_the_reference(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    logits.requires_grad_()
    found = LOSSES[name](logits, labels)
    with iff.set_backend("reference"):
        expected = LOSSES[name](logits, labels)
    torch.testing.assert_close(found, expected, equal_nan=True)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, equal_nan=True, rtol=1e-4, atol=1e-6)
    return found


@losses
@pytest.mark.parametrize("size", [(4, 5), (3, 4), (12, 15)], ids=str)
def test_an_impossible_class_costs_nothing(name: str, size: tuple[int, int]) -> None:
    logits = random(1, 4, 4, 5)
    logits[:, 3] = -INF
    assert assert_as_the_reference(name, logits, random_labels(3, 1, *size)).isfinite()


@losses
@pytest.mark.parametrize("size", [(4, 5), (8, 10)], ids=str)
def test_nan_is_seen_where_the_reference_shows_it(name: str, size: tuple[int, int]) -> None:
    logits = random(1, 3, 4, 5)
    logits[0, :, 2, 3] = torch.nan
    assert assert_as_the_reference(name, logits, random_labels(3, 1, *size)).isnan()


def test_one_nan_logit_makes_its_neighbours_boundary_unknown() -> None:
    """They are the 13 pixels within radius 2, itself included."""
    logits = random(1, 3, 9, 9)
    logits[0, 1, 4, 4] = torch.nan
    row, column = functional.soft_boundary_map(logits)[0, 0].isnan().nonzero().T - 4
    assert len(row) == 13
    assert (row**2 + column**2).max() == 4


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "soft_boundary_map"])  # it knows no labels
def test_void_counts_for_nothing_whatever_its_logits(name: str) -> None:
    logits, labels = random(1, 3, 4, 5), random_labels(3, 1, 4, 5)
    logits[:, :, 0], labels[:, 0] = torch.nan, 255
    assert assert_as_the_reference(name, logits, labels).isfinite()


@pytest.mark.parametrize("huge", [1e38, -1e38])
def test_huge_logits_have_a_finite_mean(huge: float) -> None:
    logits = torch.full((1, 2, 4, 5), huge, device=DEVICE)
    logits[:, 1] = -huge
    assert assert_as_the_reference("segmentation_loss", logits, random_labels(2, 1, 8, 10)).isfinite()
    for labels in (random_labels(2, 1, 8, 10), torch.zeros(1, 8, 10, dtype=torch.long, device=DEVICE)):
        assert assert_as_the_reference("boundary_loss", logits.detach(), labels).isfinite()


def test_a_label_of_an_impossible_class_costs_infinitely_much() -> None:
    logits = random(1, 3, 4, 5)
    logits[:, 2] = -INF
    assert functional.segmentation_loss(logits, torch.full((1, 8, 10), 2, device=DEVICE)) == INF
