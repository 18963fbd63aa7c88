"""bench/release.py rewrites what the paper's release does; it equals our reference where the two must agree.

So a comparison measures the same mathematics, apart from the defect that makes the release's InverseForm train nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import inverseform_fast as iff
from inverseform_fast import functional, reference
from inverseform_fast.bench import release
from inverseform_fast.nets.paper import Dense

BLOB = 6  # pixels


def blobs(g: torch.Generator, images: int, classes: int, void: float, size: tuple[int, int] = (47, 63)) -> Tensor:
    """Draws labels in patches of 6 x 6 pixels, cut off at the borders; every image has all classes."""
    height, width = (-(-side // BLOB) for side in size)
    patches = torch.randint(classes, (images, height * width), generator=g)
    patches[torch.rand(patches.shape, generator=g) < void] = 255
    for row in patches:
        row[torch.randperm(height * width, generator=g)[:classes]] = torch.arange(classes)
    labels = patches.unflatten(1, (height, width)).repeat_interleave(BLOB, 1).repeat_interleave(BLOB, 2)
    return labels[:, : size[0], : size[1]].contiguous()


def value_and_gradients(loss: Callable[..., Tensor], *logits: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in logits]
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


@pytest.mark.parametrize("void", [0.0, 0.1])
@pytest.mark.parametrize(("radius", "classes"), [(1, 2), (1, 19), (2, 4), (2, 11), (2, 40), (3, 5), (5, 3)])
def test_its_targets_are_ours_with_release(g: torch.Generator, radius: int, classes: int, void: float) -> None:
    labels = blobs(g, 3, classes, void)
    # From radius 3 on it draws specks for absent classes, so it is asked for none of those.
    ours = functional.boundary_map(labels, radius, release=True)
    assert 0.05 < ours.float().mean() < 0.999
    assert torch.equal(release.boundary_map(labels, radius, classes - 1), ours)
    assert torch.equal(release.boundary_map(labels.to(torch.uint8), radius, classes - 1), ours)


def test_its_targets_are_those_of_a_step(g: torch.Generator) -> None:
    """A step has radius 2, and labels lack some of the model's classes, the last one always."""
    labels = blobs(g, 2, 5, 0.1)
    assert torch.equal(release.boundary_map(labels, classes=19), reference.boundary_map(labels, release=True))


@pytest.mark.parametrize("void", [0.0, 0.1])
@pytest.mark.parametrize(("radius", "scale"), [(1, 1), (2, 4), (3, 3)])
def test_its_balanced_bce_is_ours(g: torch.Generator, radius: int, scale: int, void: float) -> None:
    labels = blobs(g, 2, 5, void)
    logits = torch.randn(2, 1, -(-47 // scale), -(-63 // scale), generator=g)
    target = functional.boundary_map(labels, radius)
    theirs = value_and_gradients(partial(release.boundary_loss, target=target), logits)
    ours = value_and_gradients(partial(functional.boundary_loss, labels=labels, radius=radius), logits)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-8)
    assert ours[1].abs().max() > 1e-5


class Copies(TorchDispatchMode):
    """A mode that counts the rows that concatenation writes."""

    rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.cat.default:
            self.rows += len(result)
        return result


def test_its_tiles_are_ours_in_another_order(g: torch.Generator) -> None:
    predicted = torch.rand(2, 1, 60, 130, generator=g)
    target = (torch.rand(2, 1, 240, 500, generator=g) < 0.1).to(torch.uint8)
    both = functional.extract_tiles(predicted, target, (672, 1344), 224, None)
    for maps, ours in zip((predicted, target.float()), both, strict=True):
        with Copies() as copies:
            theirs = release.tiles_one_by_one(F.interpolate(maps, (672, 1344), mode="bilinear", align_corners=False))
        assert theirs.shape == (2 * 18, 1, 224, 224)
        theirs = theirs.unflatten(0, (18, 2)).transpose(0, 1)
        # interpolate rounds the positions, of up to 1344 pixels, to float32.
        torch.testing.assert_close(theirs, ours.unflatten(0, (2, 18)), rtol=0, atol=1e-4)
        assert copies.rows == 2 * 171  # 1 + 2 + ... + 18 tiles of each image


@pytest.fixture(scope="module")
def dense() -> Dense:
    torch.manual_seed(0)
    net = iff.InverseTransformNet.dense(outputs=4)
    assert isinstance(net, Dense)
    for parameter in net.fc[-1].parameters():
        torch.nn.init.normal_(parameter)
    return net


@pytest.fixture
def street(g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Labels, the release's target with boundaries in all 18 tiles, and boundary logits."""
    labels = blobs(g, 1, 7, 0.05, (96, 192))
    return labels, release.boundary_map(labels, classes=7), torch.randn(1, 1, 24, 48, generator=g)


def test_its_term_is_the_mean_norm_of_the_network(dense: Dense, street: tuple[Tensor, Tensor, Tensor]) -> None:
    _, target, logits = street
    found = release.InverseForm(dense)(logits, target)

    resized = F.interpolate(target[:, None].float(), (672, 1344), mode="bilinear", align_corners=False)[0, 0]
    tiles = [resized[y : y + 224, x : x + 224].flatten() for y in range(0, 672, 224) for x in range(0, 1344, 224)]
    pairs = torch.stack([torch.cat((torch.zeros(224 * 224), tile)) for tile in tiles])
    with torch.no_grad():
        outputs = dense.fc(pairs)
    assert outputs.shape == (18, 4)
    torch.testing.assert_close(found, outputs.pow(2).sum(1).pow(0.5).mean())
    assert outputs.std(0).min() > 1e-3  # the tiles tell

    # Our loss says the same of the prediction that the release makes of any logits.
    ours = iff.InverseFormLoss(dense, distance="log", resize=(672, 1344), activation=None)
    torch.testing.assert_close(found, ours(torch.zeros_like(logits), target[:, None]))


def test_its_term_trains_nothing(dense: Dense, street: tuple[Tensor, Tensor, Tensor]) -> None:
    """This defect makes our loss necessary. The network is not to blame, for a gradient passes through it."""
    _, target, logits = street
    term = release.InverseForm(dense)
    value, gradient = value_and_gradients(partial(term, target=target), logits)
    assert torch.equal(gradient, torch.zeros_like(logits))
    assert value_and_gradients(partial(term, target=target), 5 * logits + 3)[0] == value
    ours = iff.InverseFormLoss(dense, distance="log", resize=(672, 1344))
    assert value_and_gradients(partial(ours, target=target[:, None]), logits)[1].abs().max() > 1e-6


def test_its_total_trains_what_cross_entropy_and_bce_train(street: tuple[Tensor, Tensor, Tensor], g: Any) -> None:
    labels, target, boundary_logits = street
    logits = torch.randn(1, 7, 24, 48, generator=g)
    criterion = release.Release(beta=4.0, gamma=0.3)

    def without_inverseform(logits: Tensor, boundary_logits: Tensor) -> Tensor:
        logits, boundary_logits = (
            F.interpolate(x, (96, 192), mode="bilinear", align_corners=False) for x in (logits, boundary_logits)
        )
        share = target.float().mean()
        weight = torch.where(target == 1, 1 - share, share)
        bce = F.binary_cross_entropy_with_logits(boundary_logits[:, 0], target.float(), weight)
        return F.cross_entropy(logits, labels, ignore_index=255) + 4 * bce

    def total(logits: Tensor, boundary_logits: Tensor) -> Tensor:
        return criterion(logits, labels, boundary_logits, target)

    found = value_and_gradients(total, logits, boundary_logits)
    expected = value_and_gradients(without_inverseform, logits, boundary_logits)
    term = criterion.inverseform(boundary_logits, target)
    assert term > 0
    torch.testing.assert_close(found[0], expected[0] + 0.3 * term)
    torch.testing.assert_close(found[1:], expected[1:], rtol=1e-4, atol=1e-8)
    assert min(gradient.abs().max() for gradient in found[1:]) > 1e-5
    assert not any(parameter.requires_grad for parameter in criterion.parameters())
