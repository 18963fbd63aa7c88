"""The terms of BoundaryAwareLoss, and which of them count."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import leaf_grad
from loss_inputs import random_logits, scene, target_of
from torch import Tensor

import inverseform_fast as iff

TERMS = ("total", "segmentation", "boundary", "inverseform", "edge", "dice", "f1")


def test_total_is_the_weighted_sum_of_its_terms() -> None:
    criterion, labels = iff.BoundaryAwareLoss(gamma=0.3), scene()
    logits, boundary = random_logits(2, 3, 24, 32), random_logits(2, 1, 24, 32, seed=1)
    terms = criterion(logits, labels, boundary)
    assert terms._fields == TERMS
    expected = of_classes(terms) + 10 * terms.boundary + 0.3 * terms.inverseform
    torch.testing.assert_close(terms.total, expected)
    edge = torch.where(target_of(labels)[:, 0] == 1, labels, 255)
    torch.testing.assert_close(terms.edge, iff.functional.segmentation_loss(logits, edge))
    torch.testing.assert_close(terms.dice, iff.functional.dice_loss(logits, labels))
    torch.testing.assert_close(terms.f1, iff.functional.boundary_f1_loss(logits, labels))
    torch.testing.assert_close(terms.segmentation, iff.functional.segmentation_loss(logits, labels))
    torch.testing.assert_close(terms.boundary, iff.functional.boundary_loss(boundary, labels))
    torch.testing.assert_close(terms.inverseform, criterion.inverseform(boundary, target_of(labels)))
    terms.total.backward()
    assert logits.grad is not None
    assert boundary.grad is not None
    assert boundary.grad.abs().max() > 0


def of_classes(terms: iff.LossTerms) -> Tensor:
    """The terms of the class logits, with their default weights."""
    return terms.segmentation + 4 * terms.edge + 4 * terms.dice + 16 * terms.f1


@pytest.mark.parametrize("radius", [1, 3])
def test_the_radius_is_that_of_all_terms(radius: int) -> None:
    logits, labels = random_logits(2, 3, 24, 32), scene()
    terms = iff.BoundaryAwareLoss(beta=2, radius=radius)(logits, labels)
    edge = torch.where(iff.functional.boundary_map(labels, radius) == 1, labels, 255)
    soft = iff.functional.soft_boundary_map(logits, labels.shape[-2:], radius, as_logits=True)
    torch.testing.assert_close(terms.edge, iff.functional.segmentation_loss(logits, edge))
    torch.testing.assert_close(terms.f1, iff.functional.boundary_f1_loss(logits, labels, radius))
    torch.testing.assert_close(terms.boundary, iff.functional.boundary_loss(soft, labels, radius))


def test_beta_is_another_without_a_boundary_head_unless_given() -> None:
    logits, boundary = random_logits(2, 3, 24, 32), random_logits(2, 1, 24, 32, seed=1)
    for beta, headless in ((None, 0.0), (3.0, 3.0)):
        criterion = iff.BoundaryAwareLoss(beta)
        for arguments, weight in (((), headless), ((boundary,), beta or 10.0)):
            terms = criterion(logits, scene(), *arguments)
            torch.testing.assert_close(terms.total, of_classes(terms) + weight * terms.boundary)


def test_a_term_of_weight_zero_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = random_logits(2, 3, 24, 32), scene()
    expected = iff.functional.segmentation_loss(logits, labels)
    for name in ("dice_loss", "boundary_f1_loss", "boundary_loss", "soft_boundary_map", "boundary_map"):
        monkeypatch.setattr(iff.functional, name, lambda *_: pytest.fail("computed"))
    terms = iff.BoundaryAwareLoss(beta=0, edge=0, dice=0, f1=0)(logits, labels)
    assert terms == (expected, expected, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("ignore_index", [255, -100])
def test_the_edge_is_that_of_any_labels(ignore_index: int) -> None:
    """Also where their dtype cannot hold the mark of void."""
    labels = scene().clamp(max=2).to(torch.uint8)
    logits = random_logits(2, 3, 24, 32)
    found = iff.BoundaryAwareLoss(ignore_index=ignore_index)(logits, labels)
    assert found.edge == iff.BoundaryAwareLoss()(logits, labels.long()).edge > 0


def test_without_a_boundary_there_is_no_edge() -> None:
    logits = random_logits(2, 3, 24, 32)
    terms = iff.BoundaryAwareLoss()(logits, torch.ones(2, 96, 128, dtype=torch.uint8))
    terms.total.backward()
    assert terms.edge == 0
    assert leaf_grad(logits).isfinite().all()


def test_headless_boundary_terms_reach_the_segmentation() -> None:
    logits = random_logits(2, 3, 24, 32, scale=3)
    terms = iff.BoundaryAwareLoss(beta=2, gamma=0.3)(logits, scene())
    (gradient,) = torch.autograd.grad(terms.boundary + terms.inverseform, logits)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_headless_perfect_segmentation_costs_almost_nothing() -> None:
    labels = scene(height=224, width=224)
    labels[labels == 255] = 0
    logits = 40 * F.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    terms = iff.BoundaryAwareLoss(beta=2, gamma=0.3)(logits, labels)
    assert terms.segmentation < 1e-6
    assert terms.f1 < 1e-6
    assert terms.boundary < 1e-3
    assert terms.inverseform < 0.02


def test_gamma_zero_leaves_inverseform_out() -> None:
    class Unused(iff.InverseFormLoss):
        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            raise AssertionError("InverseForm was computed")

    terms = iff.BoundaryAwareLoss(gamma=0, inverseform=Unused())(random_logits(2, 3, 24, 32), scene())
    assert terms.inverseform == 0


def test_class_weights_move_with_the_module_and_count() -> None:
    weights = torch.tensor([1.0, 5.0, 0.5])
    criterion = iff.BoundaryAwareLoss(class_weights=weights)
    logits, labels = random_logits(2, 3, 96, 128), scene()
    expected = F.cross_entropy(logits, labels, weights, ignore_index=255)
    torch.testing.assert_close(criterion(logits, labels).segmentation, expected)
    moved = criterion.to(torch.float64).class_weights
    assert moved is not None
    assert moved.dtype == torch.float64
