"""benchmarks/studies/headless: every term against its paper's definition, written out for a few pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator

import class_losses
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import boundary_map_by_definition, leaf_grad, some_labels
from scipy import ndimage
from torch import Tensor

from benchmarks.studies.headless import rivals, terms
from benchmarks.studies.headless.arms import ARMS
from benchmarks.studies.headless.terms import VOID
from inverseform_fast import BoundaryAwareLoss

SIZE, CLASSES = (9, 12), 4


@pytest.fixture
def labels() -> Tensor:
    """Two maps with void, one class missing from the second and one from both."""
    labels = some_labels((2, *SIZE), CLASSES - 1).to(torch.uint8)
    labels[1][labels[1] == 2] = 1
    return labels


@pytest.fixture
def logits(g: torch.Generator) -> Tensor:
    return torch.randn(2, CLASSES, *SIZE, generator=g)


def sure_of(labels: Tensor, classes: int = CLASSES) -> Tensor:
    """Logits of a prediction that is all but certain."""
    return 60.0 * F.one_hot(labels.long(), classes).movedim(-1, 1).float()


def pixels(labels: Tensor) -> Iterator[tuple[int, int, int]]:
    """The valid ones."""
    return ((n, y, x) for n, y, x in np.ndindex(*labels.shape) if labels[n, y, x] != VOID)


def balanced_bce(probability: Tensor, target: Tensor) -> float:
    """By definition, of probabilities and a target of 0, 1 and 255."""
    yes, no = target == 1, target == 0
    share = no.sum() / (yes.sum() + no.sum())
    terms = share * -probability[yes].log().sum() - (1 - share) * (1 - probability[no]).log().sum()
    return float(terms / (yes.sum() + no.sum()))


def soft_boundary(distributions: Tensor, radius: int = 2) -> Tensor:
    """By definition: of (N, C, H, W), one minus the product of the agreements with all neighbours in the disk."""
    n, _, height, width = distributions.shape
    result = torch.zeros(n, height, width)
    for i, y, x in np.ndindex(n, height, width):
        agreement = 1.0
        for v, u in np.ndindex(height, width):
            if 0 < (v - y) ** 2 + (u - x) ** 2 <= radius**2:
                agreement *= float((distributions[i, :, y, x] * distributions[i, :, v, u]).sqrt().sum())
        result[i, y, x] = 1 - agreement
    return result.clamp(1e-6, 1 - 1e-6)


def test_headless_is_bce_of_the_soft_boundary(logits: Tensor, labels: Tensor) -> None:
    expected = balanced_bce(soft_boundary(logits.softmax(1)), boundary_map_by_definition(labels, 2))
    assert terms.headless(logits, labels).item() == pytest.approx(expected, rel=1e-3)


def test_headless_per_class_is_the_mean_over_the_classes_present(logits: Tensor, labels: Tensor) -> None:
    p, expected = logits.softmax(1), []
    for c in range(CLASSES - 1):  # nowhere is the last one
        mine = torch.where(labels == VOID, VOID, (labels == c).to(torch.uint8))
        soft = soft_boundary(torch.stack((p[:, c], 1 - p[:, c]), 1))
        expected.append(balanced_bce(soft, boundary_map_by_definition(mine, 2)))
    assert terms.headless_per_class(logits, labels).item() == pytest.approx(np.mean(expected), rel=1e-3)


def test_boundary_cross_entropy(logits: Tensor, labels: Tensor) -> None:
    log_p, edge = logits.log_softmax(1), boundary_map_by_definition(labels, 2)
    expected = [-log_p[n, labels[n, y, x].long(), y, x].item() for n, y, x in pixels(labels) if edge[n, y, x] == 1]
    assert terms.boundary_cross_entropy(logits, labels).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_inverseform_is_that_of_the_soft_boundary(logits: Tensor, labels: Tensor) -> None:
    expected = BoundaryAwareLoss(gamma=1)(logits, labels).inverseform
    torch.testing.assert_close(terms.inverseform(logits, labels), expected, rtol=1e-3, atol=1e-5)


def test_probability_gradient_is_one_minus_the_cosine_of_sobels_gradients(logits: Tensor, labels: Tensor) -> None:
    def gradients(maps: Tensor) -> np.ndarray:
        """By scipy: (N, C, H, W, 2)."""
        each = [[ndimage.sobel(map, axis, mode="nearest") for axis in (0, 1)] for map in maps.flatten(0, 1).double()]
        return np.moveaxis(np.reshape(each, (*maps.shape[:2], 2, *SIZE)), 2, -1)

    true, ours = gradients(terms.truth_of(labels, CLASSES)), gradients(logits.softmax(1))
    void, cosines = labels == VOID, []
    for n, c, y, x in np.ndindex(true.shape[:-1]):
        window = void[n, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        if true[n, c, y, x].any() and not window.any():
            a, b = true[n, c, y, x], ours[n, c, y, x]
            cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert len(cosines) > 20
    assert rivals.probability_gradient(logits, labels).item() == pytest.approx(1 - np.mean(cosines), rel=1e-4)


def test_boundary_f1_of_classes(logits: Tensor, labels: Tensor) -> None:
    expected = class_losses.boundary_f1(logits, labels)
    assert terms.boundary_f1_classes(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)


def test_dice(logits: Tensor, labels: Tensor) -> None:
    p, expected = logits.softmax(1), []
    for c in range(CLASSES - 1):
        both = sum(p[n, c, y, x].item() for n, y, x in pixels(labels) if labels[n, y, x] == c)
        sizes = sum(p[n, c, y, x].item() + int(labels[n, y, x] == c) for n, y, x in pixels(labels))
        expected.append(1 - 2 * both / sizes)
    assert terms.dice(logits, labels).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_boundary_dice(logits: Tensor, labels: Tensor) -> None:
    soft, true = soft_boundary(logits.softmax(1)), boundary_map_by_definition(labels, 2)
    yes, known = true == 1, true != VOID
    expected = 1 - 2 * soft[yes].sum() / (soft[known].sum() + yes.sum())
    assert terms.boundary_dice(logits, labels).item() == pytest.approx(expected.item(), rel=1e-4)


def test_lovasz_is_the_extension_of_the_jaccard_loss(logits: Tensor, labels: Tensor) -> None:
    """As the paper defines it for any function of a set of wrong pixels, here the Jaccard loss of two sets."""

    def jaccard_loss(true: set[int], wrong: set[int]) -> float:
        predicted = true ^ wrong
        return 1 - len(true & predicted) / len(true | predicted)

    p, valid, expected = logits.softmax(1).movedim(1, 0), labels != VOID, []
    for c in range(CLASSES - 1):
        right = labels[valid] == c
        errors = torch.where(right, 1 - p[c][valid], p[c][valid]).tolist()
        true = set(right.nonzero()[:, 0].tolist())
        wrong: set[int] = set()
        value = 0.0
        for i in sorted(range(len(errors)), key=lambda i: -errors[i]):
            value += errors[i] * (jaccard_loss(true, wrong | {i}) - jaccard_loss(true, wrong))
            wrong.add(i)
        expected.append(value)
    assert rivals.lovasz_softmax(logits, labels).item() == pytest.approx(np.mean(expected), rel=1e-5)


def distance_by_definition(mask: Tensor, y: int, x: int) -> float:
    """From a pixel to the nearest one of a mask (H, W)."""
    return min(math.hypot(v - y, u - x) for v, u in mask.nonzero().tolist())


def test_signed_distance(logits: Tensor, labels: Tensor) -> None:
    p, total = logits.softmax(1), 0.0
    for n, y, x in pixels(labels):
        for c in labels[n].unique().tolist():
            mask = labels[n] == c
            if c != VOID:
                outside = distance_by_definition(mask, y, x)
                inside = 1 - distance_by_definition(~mask, y, x) if mask[y, x] else 0.0
                total += p[n, c, y, x].item() * (outside + inside)
    expected = total / len(list(pixels(labels)))
    assert rivals.signed_distance(logits, labels).item() == pytest.approx(expected, rel=1e-4)


def test_hausdorff(logits: Tensor, labels: Tensor) -> None:
    logits = 3 * logits  # many a pixel is surer than 0.5
    p, total = logits.softmax(1), 0.0
    for n, y, x in pixels(labels):
        for c in range(CLASSES - 1):
            field = 0.0
            for mask in (labels[n] == c, p[n, c] > 0.5):
                if mask.any():
                    field += (distance_by_definition(mask, y, x) + distance_by_definition(~mask, y, x)) ** 2
            total += (p[n, c, y, x].item() - float(labels[n, y, x] == c)) ** 2 * field / (CLASSES - 1)
    expected = total / len(list(pixels(labels)))
    assert rivals.hausdorff(logits, labels).item() == pytest.approx(expected, rel=1e-4)


def stripes(shift: int) -> Tensor:
    """Two classes that meet at column 6 + shift."""
    return (torch.arange(12) >= 6 + shift).to(torch.uint8).expand(1, 9, 12)


@pytest.mark.parametrize(("shift", "loss"), [(0, 0.0), (1, 0.0), (2, 0.0), (3, 1.0)])
def test_boundary_f1_of_a_shifted_line(shift: int, loss: float) -> None:
    """A class's boundary is its outermost column, and a window of 5 reaches two columns to either side of it."""
    value = rivals.boundary_f1(sure_of(stripes(shift), 2), stripes(0)).item()
    assert value == pytest.approx(loss, abs=1e-4)


def test_boundary_f1_by_hand() -> None:
    """Of class 1 on one row: truth at pixel 3, where p is 0.8; at pixel 6, out of reach, p is 0.4; else 0."""
    labels = torch.zeros(1, 1, 9, dtype=torch.uint8)
    labels[..., 3] = 1
    p = torch.tensor([0, 0, 0, 0.8, 0, 0, 0.4, 0, 0])
    logits = torch.stack(((1 - p).log(), p.clamp(min=1e-20).log()))[None, :, None]
    precision, recall = 0.8 / (0.8 + 0.4), 0.8
    second = 1 - 2 * precision * recall / (precision + recall)
    # Class 0 ends at pixels 2 and 4. Its p is 1 there, and at 5 and 7, of which 5 is in reach; its boundary is as high
    # as its neighbour is low: 0.8 at 2 and 4, 0.4 at 5 and 7. Pixel 6 has a boundary of 0: it is the lowest itself.
    precision, recall = (0.8 + 0.8 + 0.4) / (0.8 + 0.8 + 0.4 + 0.4), 0.8
    first = 1 - 2 * precision * recall / (precision + recall)
    assert rivals.boundary_f1(logits, labels).item() == pytest.approx((first + second) / 2, abs=1e-4)


def test_boundary_f1_leaves_void_out(labels: Tensor) -> None:
    void = torch.full_like(stripes(0), VOID)
    assert rivals.boundary_f1(sure_of(stripes(3), 2), stripes(0)) > 0.9
    partly = torch.cat((stripes(0)[..., :4], void[..., 4:]), -1)
    both = torch.cat((partly, stripes(0)))
    value = rivals.boundary_f1(sure_of(torch.cat((stripes(3), stripes(0))), 2), both).item()
    assert value == pytest.approx(0, abs=1e-4)  # the first one has no boundary away from void


@pytest.mark.parametrize("radius", [1, 2])
def test_relaxed_cross_entropy(radius: int, logits: Tensor, labels: Tensor) -> None:
    p, total = logits.softmax(1), 0.0
    for n, y, x in pixels(labels):
        window = labels[n, max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        allowed = [c for c in window.unique().tolist() if c != VOID]
        total -= p[n, allowed, y, x].sum().log().item()
    expected = total / len(list(pixels(labels)))
    assert rivals.relaxed_cross_entropy(logits, labels, radius).item() == pytest.approx(expected, rel=1e-5)


def test_active_boundary(logits: Tensor, labels: Tensor) -> None:
    log_p, total, count = logits.log_softmax(1), 0.0, 0
    height, width = SIZE

    def divergence(n: int, y: int, x: int, v: int, u: int) -> float:
        here, there = log_p[n, :, y, x], log_p[n, :, v, u]
        return float((here.exp() * (here - there)).sum())

    for n in range(2):
        strength, edge = torch.zeros(SIZE), torch.zeros(SIZE, dtype=torch.bool)
        for y, x in np.ndindex(*SIZE):
            for v, u in ((y, x + 1), (y + 1, x)):
                if v < height and u < width:
                    strength[y, x] = max(strength[y, x].item(), divergence(n, y, x, v, u))
                    pair = {int(labels[n, y, x]), int(labels[n, v, u])}
                    edge[y, x] |= len(pair) == 2 and VOID not in pair
        chosen = strength.flatten().argsort(descending=True)[: int(0.3 * strength.numel())].tolist()
        for y, x in (divmod(place, width) for place in chosen):
            if labels[n, y, x] != VOID and 0 < y < height - 1 and 0 < x < width - 1:
                around = [(v, u) for v in range(y - 1, y + 2) for u in range(x - 1, x + 2) if (v, u) != (y, x)]
                best = min(range(8), key=lambda i: distance_by_definition(edge, *around[i]))
                target = torch.full((8,), 0.2 / 7)
                target[best] = 0.8
                moves = torch.tensor([divergence(n, y, x, v, u) for v, u in around]).log_softmax(0)
                total -= min(distance_by_definition(edge, y, x), 1.2) / 1.2 * float(target @ moves)
                count += 1
    assert count > 10
    assert rivals.active_boundary(logits, labels, share=0.3, reach=1.2).item() == pytest.approx(total / count, rel=1e-4)


def test_active_boundary_moves_predicted_boundary_pixels_only(logits: Tensor, labels: Tensor) -> None:
    leaf = logits.requires_grad_()
    rivals.active_boundary(leaf, labels, share=0.05).backward()
    moved = leaf_grad(leaf).abs().sum(1) > 0
    assert 0 < moved.sum() <= 2 * int(0.05 * moved[0].numel())
    assert rivals.active_boundary(leaf, torch.zeros_like(labels)).item() == 0


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_prefers_the_truth_and_has_a_finite_gradient(name: str, labels: Tensor) -> None:
    arm, known = ARMS[name], labels.masked_fill(labels == VOID, 0)
    assert len(arm.weights) == len(set(arm.weights)) >= (1 if name == "ce" else 3)
    loss = arm.make(arm.weights[0])
    boundary = boundary_map_by_definition(labels, 2)[:, None] == 1
    right = {"semantic": sure_of(known), "boundary": 9.0 * boundary.float() - 4.5}
    wrong = {"semantic": sure_of(known.flip(1)), "boundary": -right["boundary"]}
    assert loss(right, labels) < loss(wrong, labels)
    for prediction in (right, wrong, {key: 0 * value for key, value in right.items()}):
        leaf = prediction["semantic"].clone().requires_grad_()
        loss(prediction | {"semantic": leaf}, labels).backward()
        assert leaf_grad(leaf).isfinite().all()


def test_weights_multiply_the_terms(logits: Tensor, labels: Tensor) -> None:
    make = ARMS["dice-per-class"].make
    expected = terms.cross_entropy(logits, labels) + 2 * terms.dice(logits, labels)
    expected = expected + 0.5 * terms.headless_per_class(logits, labels)
    torch.testing.assert_close(make((2, 0.5))({"semantic": logits}, labels), expected)


def test_random_direction_is_as_long_and_where_the_gradient_of_inverseform_is(g: torch.Generator) -> None:
    labels = torch.zeros(1, 224, 224, dtype=torch.uint8)
    labels[:, 60:150, 40:180] = 1
    logits = torch.randn(1, 2, 56, 56, generator=g)
    torch.manual_seed(0)
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    terms.inverseform(leaves[0], labels).backward()
    terms.random_direction(leaves[1], labels).backward()
    true, random = map(leaf_grad, leaves)
    assert true.any()
    assert torch.equal(random.abs(), true.abs())
    assert 0.4 < (random == true)[true != 0].float().mean() < 0.6
