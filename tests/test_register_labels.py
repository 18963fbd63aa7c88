"""The registration against its definition: the objective, its slope, its curvature and its noise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_aligner import displaced, seen
from torch import Tensor

from inverseform_fast import homography
from inverseform_fast.functional import register_labels
from inverseform_fast.inverse_net.pairs import view_labels
from inverseform_fast.reference.register_labels import POINTS, Fit, _classes, _points, _velocities
from inverseform_fast.segmentation.datasets import Scenes
from inverseform_fast.tiling import tiles_to_image

HALF = 112  # pixels


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    return Scenes("val", size=(224, 224), length=8).labels


@pytest.fixture
def fit(scenes: Tensor, generator: torch.Generator) -> Fit:
    """One scene in one tile, and a smooth prediction that has little to do with it."""
    logits = F.interpolate(torch.randn(1, 12, 5, 5, generator=generator), (56, 56), mode="bicubic")
    probabilities = logits.softmax(1) + 0.05
    to_image = tiles_to_image(torch.float32, torch.device("cpu"), 1, 1)
    ids, valid, known = _classes(scenes[:1], (1, 1), logits.shape[1], 255)
    assert known.all()
    return Fit(probabilities, ids, valid / valid.sum(), to_image)


def test_the_objective_is_that_of_the_definition(fit: Fit, generator: torch.Generator) -> None:
    a = homography.sample(1, 0.1, generator=generator)
    points = _points(torch.float32, torch.device("cpu"))
    moved = homography.exp(-a)[0] @ points
    x, y = (moved[:2] / moved[2:] + 1) / 2 * fit.width - 0.5
    logs = fit.logs.view(1, -1, fit.height, fit.width)[0]
    expected = -a.square().sum(1)
    for point, (id_, weight) in enumerate(zip(fit.first[0, 0] // fit.width**2, fit.weights[0, 0], strict=True)):
        left, top = (int(v.clamp(0, fit.width - 1)) for v in (x[point], y[point]))
        right, below = (min(v + 1, fit.width - 1) for v in (left, top))
        u, v = x[point].clamp(0, fit.width - 1) - left, y[point].clamp(0, fit.width - 1) - top
        upper = (1 - u) * logs[id_, top, left] + u * logs[id_, top, right]
        lower = (1 - u) * logs[id_, below, left] + u * logs[id_, below, right]
        expected += weight * ((1 - v) * upper + v * lower)
    torch.testing.assert_close(fit.at(a[None])[0][0], expected, rtol=1e-4, atol=1e-5)
    assert fit.weights.sum().item() == pytest.approx(1)


def test_the_slopes_are_the_gradient_at_rest(fit: Fit) -> None:
    velocities = _velocities(torch.float64, torch.device("cpu")).float()
    slope = (fit.at(torch.zeros(1, 1, 8))[1] @ velocities)[0, 0]
    step = 1e-3
    for k in range(8):
        ends = [fit.at(sign * step * torch.eye(8)[k].view(1, 1, 8))[0].item() for sign in (1, -1)]
        assert slope[k].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=4e-3)
    assert slope.norm() > 0.05


def test_the_curvature_is_the_fisher_information(scenes: Tensor, fit: Fit) -> None:
    """For p = (1 + x / 2, 1 - x / 2) / 2 and shifts along x, it is the mean of p'^2 / (p (1 - p))."""
    x = (torch.arange(56) + 0.5) / 28 - 1
    first = ((1 + x / 2) / 2).expand(1, 1, 56, 56)
    probabilities = torch.cat((first, 1 - first), 1)
    shape = (1, 1, POINTS**2)
    whole = Fit(probabilities, torch.zeros(shape).long(), torch.full(shape, 1 / shape[2]), fit.to_image).curvature[0, 0]
    p = (1 + x / 2) / 2
    assert whole[0, 0].item() == pytest.approx((1 / 16 / (p * (1 - p))).mean().item(), rel=0.05)
    assert whole[1].abs().max() < 1e-5  # nothing changes along y
    torch.testing.assert_close(whole, whole.T)


def test_the_curvature_of_a_slanted_prediction_couples_x_and_y(fit: Fit) -> None:
    along = (torch.arange(56) + 0.5) / 28 - 1
    first = ((1 + (along + along[:, None]) / 4) / 2)[None, None]
    shape = (1, 1, POINTS**2)
    ids, weights = torch.zeros(shape).long(), torch.full(shape, 1 / shape[2])
    (xx, xy), (yx, yy) = (
        Fit(torch.cat((first, 1 - first), 1), ids, weights, fit.to_image).curvature[0, 0, :2, :2].tolist()
    )  # of shifts along x and y, by which it changes alike
    assert xy == yx == pytest.approx(xx, rel=0.05) == pytest.approx(yy, rel=0.05)
    assert xx > 0.05


@pytest.mark.parametrize("pixels", [8.0, 16.0])
def test_random_homographies_are_found(scenes: Tensor, generator: torch.Generator, pixels: float) -> None:
    a = F.normalize(torch.randn(len(scenes), 8, generator=generator)) * pixels / HALF
    labels = view_labels(scenes[:, None], homography.exp(-a), 224)
    logits = F.avg_pool2d(seen(scenes), 4)
    found = register_labels(logits, labels, 255)[:, 0, 0]
    left = homography.corner_displacement(homography.exp(found), homography.exp(a)) * HALF
    before = homography.corner_displacement(homography.exp(a)) * HALF
    assert left.mean() < 0.5 * before.mean()


def test_labels_of_an_unsure_prediction_that_is_right_stay(scenes: Tensor, generator: torch.Generator) -> None:
    """The noise is right: of labels that are drawn from the prediction, nearly all readings are below it."""
    logits = F.interpolate(torch.randn(40, 4, 8, 8, generator=generator), (56, 56), mode="bilinear")
    fine = F.interpolate(logits, (224, 224), mode="bilinear").softmax(1)
    blocks = F.avg_pool2d(fine, 8).movedim(1, -1).flatten(0, 2)
    drawn = torch.multinomial(blocks, 1, generator=generator).view(40, 28, 28)
    labels = drawn.repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert (register_labels(logits, labels, 255) != 0).any(-1).float().mean() < 0.2


def test_unknown_labels_and_single_classes_say_nothing(scenes: Tensor) -> None:
    labels = displaced(scenes, 9, 0).long()
    logits = F.avg_pool2d(seen(scenes), 4)
    expected = register_labels(logits, labels, 255)
    assert expected.any(-1).all()
    for unknown in (-1, 400, 2**40):
        assert torch.equal(register_labels(logits, labels.where(labels != 255, unknown), 255), expected)
    assert not register_labels(logits, torch.full_like(labels, 3), 255).any()
    assert not register_labels(logits, torch.full_like(labels, 255), 255).any()
    assert not register_labels(torch.zeros_like(logits), labels, 255).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 3), (224, 224)])
def test_logits_of_any_resolution(scenes: Tensor, size: tuple[int, int]) -> None:
    logits = F.interpolate(seen(scenes), size, mode="area")
    found = register_labels(logits, displaced(scenes, 9, 0), 255)
    assert found.isfinite().all()
    assert found.shape == (len(scenes), 1, 1, 8)


def test_tiles_half_overlap(scenes: Tensor) -> None:
    wide = torch.cat((scenes[:1], displaced(scenes[1:2], 9, 0)), 2)  # only the right half is displaced
    truth = torch.cat((scenes[:1], scenes[1:2]), 2)
    found = register_labels(F.avg_pool2d(seen(truth), 4), wide, 255)
    assert found.shape == (1, 1, 3, 8)
    left, _, right = (homography.corner_displacement(homography.exp(a)) * HALF for a in found[0, 0])
    assert left < 1
    assert right == pytest.approx(9, abs=2)


def test_tiles_have_their_places_in_the_image() -> None:
    maps = tiles_to_image(torch.float64, torch.device("cpu"), 3, 1)
    corner = torch.tensor([1.0, 1, 1], dtype=torch.float64)
    places = (maps @ corner)[:, :2]
    assert places.tolist() == [[1, 0], [1, 0.5], [1, 1]]
