"""Where numbers are infinite, huge or void, the kernels give what the reference gives, and that is what is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers import some_labels
from torch import Tensor

import inverseform_fast as iff
from inverseform_fast import functional
from inverseform_fast.reference.segmentation_loss import upsample

INF = float("inf")
# Smaller labels than logits, labels that lie on every third position of the logits, and larger ones.
sizes = pytest.mark.parametrize("size", [(4, 5), (6, 8), (18, 24), (7, 11), (12, 16)], ids=str)
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "segmentation_loss": functional.segmentation_loss,
    "weighted": lambda x, y: functional.segmentation_loss(x, y, torch.tensor([1.0, 0.0, 2.0, 1.0])),
    "dice_loss": functional.dice_loss,
    "boundary_f1_loss": functional.boundary_f1_loss,
    "boundary_loss": lambda x, y: functional.boundary_loss(x[:, :1], y),
    "soft_boundary_map": lambda x, y: functional.soft_boundary_map(x, y.shape[1:]).mean(),
}
losses = pytest.mark.parametrize("name", LOSSES)


def some_logits(n: int = 2) -> Tensor:
    return 3 * torch.randn(n, 4, 6, 8, generator=torch.Generator().manual_seed(0))


def value_and_gradient(name: str, logits: Tensor, labels: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    with iff.set_backend(backend):
        value = LOSSES[name](logits, labels)
        return value.detach(), torch.autograd.grad(value, logits)[0]


def assert_backends_agree(name: str, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    kernel, truth = (value_and_gradient(name, logits, labels, backend) for backend in ("auto", "reference"))
    torch.testing.assert_close(kernel, truth, equal_nan=True, rtol=1e-4, atol=1e-6)
    return truth


@sizes
@losses
def test_an_impossible_class_costs_nothing(name: str, size: tuple[int, int]) -> None:
    """Its logit is minus infinity everywhere; at a share of 0 that must not become NaN."""
    logits, labels = some_logits(), some_labels((2, *size), 3)
    logits[:, 3] = -INF
    value, gradient = assert_backends_agree(name, logits, labels)
    assert value.isfinite()
    assert gradient.isfinite().all()
    if name in ("segmentation_loss", "dice_loss", "boundary_f1_loss"):
        three = LOSSES[name](logits[:, :3], labels)
        torch.testing.assert_close(value, three)


@sizes
@losses
@pytest.mark.parametrize("bad", [INF, -INF, torch.nan])
def test_what_is_not_finite_reaches_the_same_pixels(name: str, size: tuple[int, int], bad: float) -> None:
    logits, labels = some_logits(), some_labels((2, *size), 3)
    logits[0, :, 2, 3] = bad
    assert_backends_agree(name, logits, labels)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "soft_boundary_map"])  # it knows no labels
def test_void_counts_for_nothing_whatever_its_logits(name: str) -> None:
    logits, labels = some_logits(1), some_labels((1, 6, 8), 3, void=None)
    labels[:, :4] = 255
    broken = logits.clone()
    broken[:, :, 0] = torch.nan
    value, gradient = assert_backends_agree(name, broken, labels)
    expected, expected_gradient = value_and_gradient(name, logits, labels, "reference")
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, expected_gradient)


@sizes
@losses
@pytest.mark.parametrize("huge", [1e38, -1e38])
def test_huge_logits_have_a_finite_mean(name: str, size: tuple[int, int], huge: float) -> None:
    logits, labels = torch.full((2, 4, 6, 8), huge), some_labels((2, *size), 3)
    logits[:, 1] = -huge
    value, _ = assert_backends_agree(name, logits, labels)
    assert value.isfinite()


@pytest.mark.parametrize("kind", [0, 255])
@pytest.mark.parametrize("huge", [1e38, -1e38, INF, -INF])
def test_boundaries_of_one_kind_cost_nothing(kind: int, huge: float) -> None:
    labels = torch.full((1, 12, 16), kind)
    value, gradient = assert_backends_agree("boundary_loss", torch.full((1, 4, 6, 8), huge), labels)
    assert value == 0
    assert not gradient.any()


def test_a_sure_boundary_costs_nothing_where_it_is_right() -> None:
    labels = torch.tensor([[[0, 0, 0, 1, 1, 1]]])
    sure = torch.where(functional.boundary_map(labels)[:, None] == 1, INF, -INF)
    for backend in ("auto", "reference"):
        with iff.set_backend(backend):
            assert functional.boundary_loss(sure, labels) == 0


@sizes
def test_the_reference_upsamples_as_pytorch_does(size: tuple[int, int]) -> None:
    logits = some_logits().double().requires_grad_()
    ours = upsample(logits, size)
    theirs = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours, theirs)
    incoming = torch.randn(ours.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(*(torch.autograd.grad(result, logits, incoming) for result in (ours, theirs)))


def test_a_radius_beyond_the_image_does_not_hang() -> None:
    labels = torch.tensor([[[0, 0, 1], [0, 0, 0]]])
    with iff.set_backend("reference"):
        assert functional.boundary_map(labels, 2**31 - 1).all()
        assert functional.soft_boundary_map(torch.zeros(1, 2, 2, 3), radius=2**31 - 1).shape == (1, 1, 2, 3)
