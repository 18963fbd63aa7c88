"""A training may rely on these properties of InverseFormLoss and BoundaryAwareLoss."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import leaf_grad
from torch import Tensor, nn

import inverseform_fast as iff

TERMS = ("total", "segmentation", "boundary", "inverseform", "edge", "dice", "f1")


def scene(batch: int = 2, height: int = 96, width: int = 128) -> Tensor:
    """Makes labels with straight and curved outlines and a void corner."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    labels = torch.zeros(batch, height, width, dtype=torch.int64)
    for index in range(batch):
        labels[index][(x > 40 + 10 * index) & (y > 30)] = 1
        labels[index][(x - 80) ** 2 + (y - 50) ** 2 < 400] = 2
        labels[index, -8:, :8] = 255
    return labels


def random_logits(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).requires_grad_()


@pytest.fixture(scope="module")
def criterion() -> iff.BoundaryAwareLoss:
    return iff.BoundaryAwareLoss(gamma=0.3)


@pytest.fixture(scope="module")
def inverseform() -> iff.InverseFormLoss:
    return iff.InverseFormLoss()


def target_of(labels: Tensor) -> Tensor:
    return iff.functional.boundary_map(labels)[:, None]


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


def test_total_is_the_weighted_sum_of_its_terms(criterion: iff.BoundaryAwareLoss) -> None:
    labels = scene()
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
    return terms.segmentation + 4 * terms.edge + terms.dice + 16 * terms.f1


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
