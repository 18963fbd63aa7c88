"""A training may rely on these properties of InverseFormLoss and BoundaryAwareLoss."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from helpers import leaf_grad
from loss_inputs import random_logits, scene, target_of
from torch import nn

import inverseform_fast as iff


@pytest.fixture(scope="module")
def criterion() -> iff.BoundaryAwareLoss:
    return iff.BoundaryAwareLoss(gamma=0.3)


@pytest.fixture(scope="module")
def inverseform() -> iff.InverseFormLoss:
    return iff.InverseFormLoss()


@pytest.mark.parametrize("distance", iff.homography.DISTANCES)
def test_a_match_costs_exactly_nothing_and_has_zero_gradient(distance: str) -> None:
    target = target_of(scene(height=224, width=448))
    for resize in (None, (224, 224), (448, 224)):
        loss = iff.InverseFormLoss(distance=distance, resize=resize, activation=None)
        probability = (target == 1).float().requires_grad_()
        value = loss(probability, target)
        value.backward()
        assert value.item() == 0
        assert probability.grad is not None
        assert torch.equal(probability.grad, torch.zeros_like(probability))


@pytest.mark.parametrize("distance", iff.homography.DISTANCES)
def test_a_mismatch_costs_and_has_a_gradient(distance: str) -> None:
    target = target_of(scene(height=224, width=224))
    loss = iff.InverseFormLoss(distance=distance)
    logits = (12 * (target == 1).float() - 6).roll(6, 3).requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert value.item() > 0.01
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().max() > 0


def test_reductions_leave_out_tiles_without_a_boundary() -> None:
    target = target_of(scene(height=224, width=448))
    target[1, :, :, 224:] = 0  # the last tile has no boundary
    logits = random_logits(2, 1, 224, 448)
    none, total, mean = (
        iff.InverseFormLoss(reduction=reduction, resize=(224, 448))(logits, target)
        for reduction in ("none", "sum", "mean")
    )
    assert none.shape == (4,)
    assert none[3] == 0
    assert (none[:3] > 0).all()
    torch.testing.assert_close(total, none.sum())
    assert iff.InverseFormLoss(resize=(224, 448)).tiles_with_boundary(target) == 3
    torch.testing.assert_close(mean, none[:3].mean())


@pytest.mark.parametrize(
    ("size", "tiles"), [((100, 90), 1), ((336, 335), 2), ((360, 480), 4), ((1024, 2048), 45), ((224, 560), 3)]
)
def test_maps_are_resized_to_the_nearest_multiple_of_the_tile(
    size: tuple[int, int], tiles: int, inverseform: iff.InverseFormLoss
) -> None:
    loss = copy.copy(inverseform)
    loss.reduction = "none"
    target = torch.ones(1, 1, *size, dtype=torch.uint8)
    with torch.no_grad():
        assert loss(torch.zeros(1, 1, 10, 12), target).shape == (tiles,)


@pytest.mark.parametrize("name", ["one class", "all void"])
def test_nothing_to_compare_costs_nothing(criterion: iff.BoundaryAwareLoss, name: str) -> None:
    labels = torch.full((2, 96, 128), 1 if name == "one class" else 255)
    for boundary in (None, random_logits(2, 1, 24, 32, seed=1)):
        logits = random_logits(2, 3, 24, 32)
        terms = criterion(logits, labels, boundary)
        terms.total.backward()
        assert terms.inverseform == 0
        assert all(term.isfinite() for term in terms)
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        if boundary is not None:
            assert boundary.grad is not None
            assert torch.equal(boundary.grad, torch.zeros_like(boundary))
        if name == "all void":
            assert terms.total == 0
            assert logits.grad.abs().max() == 0


def test_an_empty_batch_costs_nothing(criterion: iff.BoundaryAwareLoss) -> None:
    logits = torch.zeros(0, 3, 24, 32, requires_grad=True)
    labels = torch.zeros(0, 96, 128, dtype=torch.long)
    for boundary in (None, torch.zeros(0, 1, 24, 32, requires_grad=True)):
        terms = criterion(logits, labels, boundary)
        terms.total.backward()
        assert terms.total == 0


def test_network_is_frozen_and_no_part_of_the_module(criterion: iff.BoundaryAwareLoss) -> None:
    assert list(criterion.parameters()) == []
    assert criterion.state_dict() == {}
    net = criterion.inverseform.net
    assert not any(parameter.requires_grad for parameter in net.parameters())
    model = nn.ModuleDict({"criterion": criterion})
    model.train()
    assert not net.training
    assert list(model.parameters()) == []


def test_network_follows_moves_but_stays_wide(criterion: iff.BoundaryAwareLoss) -> None:
    moved = copy.deepcopy(criterion)
    model = nn.ModuleDict({"criterion": moved})
    net = moved.inverseform.net
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        model.to(dtype)
        assert {parameter.dtype for parameter in net.parameters()} == {expected}
    assert {parameter.dtype for parameter in criterion.inverseform.net.parameters()} == {torch.float32}


def test_copies_and_pickles(criterion: iff.BoundaryAwareLoss) -> None:
    buffer = io.BytesIO()
    torch.save(criterion, buffer)
    buffer.seek(0)
    labels, logits = scene(), random_logits(2, 3, 24, 32)
    expected = criterion(logits, labels).total
    for other in (copy.deepcopy(criterion), torch.load(buffer, weights_only=False)):
        assert torch.equal(other(logits, labels).total, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(criterion: iff.BoundaryAwareLoss, dtype: torch.dtype) -> None:
    labels, logits, boundary = scene(), random_logits(2, 3, 24, 32), random_logits(2, 1, 24, 32, seed=1)
    low = [x.detach().to(dtype).requires_grad_() for x in (logits, boundary)]
    expected = criterion(low[0].detach().float(), labels, low[1].detach().float())
    with torch.autocast("cpu", torch.bfloat16):
        terms = criterion(low[0], labels, low[1])
    assert all(torch.equal(term, other) for term, other in zip(terms, expected, strict=True))
    terms.total.backward()
    assert low[0].grad is not None
    assert low[0].grad.dtype == dtype


@pytest.mark.parametrize("headless", [True, False])
def test_the_loss_compiles_without_a_graph_break(criterion: iff.BoundaryAwareLoss, headless: bool) -> None:
    labels, logits = scene(), random_logits(2, 3, 24, 32)
    boundary = None if headless else random_logits(2, 1, 24, 32, seed=1)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    expected = criterion(logits, labels, boundary).total
    total = compiled(logits, labels, boundary).total
    torch.testing.assert_close(total, expected)
    (gradient,), (wanted,) = torch.autograd.grad(total, [logits]), torch.autograd.grad(expected, [logits])
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-7)


def test_the_same_input_gives_the_same_bits(criterion: iff.BoundaryAwareLoss) -> None:
    labels = scene()
    results = []
    for _ in range(2):
        logits = random_logits(2, 3, 24, 32)
        terms = criterion(logits, labels)
        terms.total.backward()
        results.append((terms.total, leaf_grad(logits)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_non_finite_logits_are_named_when_asked() -> None:
    labels = scene()
    criterion = iff.BoundaryAwareLoss(check_finite=True)
    good, bad = random_logits(2, 3, 24, 32).detach(), random_logits(2, 3, 24, 32).detach().clone()
    bad[0, 1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="segmentation_logits must be finite, but 1 of 4608 values"):
        criterion(bad, labels)
    with pytest.raises(ValueError, match="boundary_logits must be finite"):
        criterion(good, labels, torch.full((2, 1, 24, 32), torch.inf))
    with pytest.raises(ValueError, match="logits must be finite"):
        iff.InverseFormLoss(check_finite=True)(torch.full((2, 1, 24, 32), torch.nan), target_of(labels))
    assert iff.BoundaryAwareLoss()(bad, labels).total.isnan()  # off by default: the loss says NaN, as others do


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labels": torch.zeros(2, 96, 128)}, TypeError, "labels must be of an integer dtype .*, got torch.float32"),
        ({"labels": torch.zeros(2, 1, 96, 128).long()}, ValueError, r"labels must have shape \(2, H, W\)"),
        ({"labels": torch.zeros(3, 96, 128).long()}, ValueError, r"labels must have shape \(2, H, W\)"),
        ({"labels": torch.full((2, 96, 128), 7)}, ValueError, r"labels must lie in \[0, 3\).*found \[7\]"),
        ({"labels": torch.full((2, 96, 128), -1)}, ValueError, r"labels must lie in \[0, 3\).*found \[-1\]"),
        ({"logits": torch.zeros(2, 4, 24, 32)}, ValueError, r"class_weights must have shape \(4,\).*got \(3,\)"),
        ({"logits": torch.zeros(3, 24, 32)}, ValueError, r"logits must have shape \(N, C, h, w\), got \(3, 24, 32\)"),
        ({"boundary": torch.zeros(2, 2, 24, 32)}, ValueError, r"boundary_logits must have shape \(N, 1, h, w\)"),
    ],
)
def test_bad_input_is_an_error_that_names_it(arguments: dict, error: type[Exception], message: str) -> None:
    criterion = iff.BoundaryAwareLoss(class_weights=torch.ones(3))
    good = {"logits": torch.zeros(2, 3, 24, 32), "labels": scene(), "boundary": None}
    with pytest.raises(error, match=message):
        criterion(*{**good, **arguments}.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: iff.InverseFormLoss(distance="l2"), "distance must be one of log, euclidean, geodesic, got 'l2'"),
        (lambda: iff.InverseFormLoss(reduction="max"), "reduction must be 'mean', 'sum' or 'none', got 'max'"),
        (lambda: iff.InverseFormLoss(activation="relu"), "activation must be 'sigmoid' or None, got 'relu'"),
        (lambda: iff.InverseFormLoss(resize=(200, 224)), r"resize must be multiples of .* 224, got \(200, 224\)"),
        (lambda: iff.BoundaryAwareLoss(beta=-1.0), "beta must be finite and at least 0, got -1.0"),
        (lambda: iff.BoundaryAwareLoss(edge=-1.0), "edge must be finite and at least 0, got -1.0"),
        (lambda: iff.BoundaryAwareLoss(dice=-1.0), "dice must be finite and at least 0, got -1.0"),
        (lambda: iff.BoundaryAwareLoss(f1=-1.0), "f1 must be finite and at least 0, got -1.0"),
        (lambda: iff.BoundaryAwareLoss(gamma=float("nan")), "gamma must be finite and at least 0, got nan"),
        (lambda: iff.BoundaryAwareLoss(radius=0), "radius must be a whole number of pixels, at least 1, got 0"),
    ],
)
def test_bad_options_are_refused_at_once(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("values", "dtype", "found"),
    [
        ((0, 0.5), torch.float32, r"\[0\.5"),
        ((0, 0.5), torch.float16, r"\[0\.5"),
        ((0.25, 1), torch.float64, r"\[0\.25"),
        ((0, torch.nan), torch.float32, r"\[nan"),
        ((0, 2), torch.float32, r"\[2\.0"),
        ((0, 2), torch.uint8, r"\[2\]"),
        ((0, -1), torch.int64, r"\[-1\]"),
        ((0, -1), torch.int8, r"\[-1\]"),  # 255, the mark of void, wraps around to -1
    ],
    ids=str,
)
def test_a_target_of_other_values_is_refused(
    inverseform: iff.InverseFormLoss, values: tuple[float, float], dtype: torch.dtype, found: str
) -> None:
    target = torch.where(target_of(scene()) == 1, values[1], values[0]).to(dtype)
    with pytest.raises(ValueError, match=rf"target must hold 0 \(none\), 1 \(boundary\) and 255.* found {found}"):
        inverseform(random_logits(2, 1, 24, 32), target)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.bfloat16, torch.bool], ids=str)
def test_a_target_of_any_dtype_counts_the_same(inverseform: iff.InverseFormLoss, dtype: torch.dtype) -> None:
    logits, target = random_logits(2, 1, 24, 32), target_of(scene().clamp(max=2))
    assert inverseform(logits, target.to(dtype)) == inverseform(logits, target) > 0


def test_a_target_of_0_and_255_warns_once() -> None:
    loss, logits, target = iff.InverseFormLoss(), random_logits(2, 1, 24, 32), target_of(scene())
    with pytest.warns(UserWarning, match="255 .void. but no 1 .boundary. so far, .* divide a map of 0 and 255"):
        loss(logits, 255 * (target == 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(logits, 255 * (target == 1))
        fresh = iff.InverseFormLoss()
        fresh(logits, target)  # a boundary was seen, so that a void batch is nothing strange
        fresh(logits, torch.full_like(target, 255))
        iff.BoundaryAwareLoss(gamma=0.3)(random_logits(2, 3, 24, 32), torch.full((2, 96, 128), 255))


def test_torch_func_differentiates_it(criterion: iff.BoundaryAwareLoss) -> None:
    labels, logits, head = scene(1), random_logits(1, 3, 24, 32), random_logits(1, 1, 24, 32, seed=1)
    (expected,) = torch.autograd.grad(criterion(logits, labels, head).total, logits)
    actual = torch.func.grad(lambda x: criterion(x, labels, head.detach()).total)(logits.detach())
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("wrong", [-0.5, 1.5, 4.0])
def test_a_prediction_that_is_no_probability_is_refused_if_there_is_no_activation(wrong: float) -> None:
    predicted, target = torch.full((1, 1, 224, 224), 0.5), torch.zeros(1, 1, 224, 224)
    loss = iff.InverseFormLoss(activation=None)
    assert loss(predicted, target) == 0
    predicted[0, 0, 3, 4] = wrong
    with pytest.raises(
        ValueError, match=f"logits must be probabilities, 0 to 1, if there is no activation, got {wrong:g}"
    ):
        loss(predicted, target)
