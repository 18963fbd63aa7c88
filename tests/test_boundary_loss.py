"""boundary_loss equals an explicit balanced cross-entropy, in values and gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same_when_called, boundary_map_by_definition, some_labels, ways
from torch import Tensor

from inverseform_fast.checks import LABEL_DTYPES
from inverseform_fast.functional import boundary_loss

resolutions = pytest.mark.parametrize("resolution", [(8, 10), (2, 3), (4, 5), (13, 7), (1, 1)], ids=str)
CHECKERBOARD = (torch.arange(8)[:, None] + torch.arange(10)) % 2


def some_logits(n: int = 2, h: int = 8, w: int = 10, dtype: torch.dtype = torch.float64, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (scale * torch.randn(n, 1, h, w, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def by_definition(logits: Tensor, labels: Tensor, radius: int = 2, ignore_index: int = 255) -> Tensor:
    """Averages over valid pixels; the batch's share of negatives weighs positives, and the other way round."""
    probability = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)[:, 0].sigmoid()
    target = boundary_map_by_definition(labels, radius, ignore_index)
    positives, negatives = probability[target == 1], 1 - probability[target == 0]
    valid = len(positives) + len(negatives)
    positive_loss = -positives.log().sum() * len(negatives) / valid
    negative_loss = -negatives.log().sum() * len(positives) / valid
    return (positive_loss + negative_loss) / valid


def value_and_gradient(loss: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    return loss, torch.autograd.grad(loss, logits)[0]


def assert_same(logits: Tensor, actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value_and_gradient(actual, logits), value_and_gradient(expected, logits))


@resolutions
@pytest.mark.parametrize("radius", [1, 2, 3])
def test_the_loss_is_its_definition(resolution: tuple[int, int], radius: int) -> None:
    logits, labels = some_logits(2, *resolution), some_labels((2, 8, 10), 4)
    assert_same(logits, boundary_loss(logits, labels, radius), by_definition(logits, labels, radius))


def test_the_defaults_are_radius_2_and_void_255() -> None:
    logits, labels = some_logits(), some_labels((2, 8, 10), 4)
    assert boundary_loss(logits, labels) == boundary_loss(logits, labels, radius=2, ignore_index=255)
    assert boundary_loss(logits, labels) != boundary_loss(logits, labels, radius=1)


@pytest.mark.parametrize("dtype", LABEL_DTYPES, ids=str)
@pytest.mark.parametrize("ignore_index", [100, 0])
def test_labels_of_every_integer_type_and_any_void_id(dtype: torch.dtype, ignore_index: int) -> None:
    logits, labels = some_logits(), some_labels((2, 8, 10), 4, void=ignore_index).to(dtype)
    actual = boundary_loss(logits, labels, ignore_index=ignore_index)
    assert_same(logits, actual, by_definition(logits, labels, ignore_index=ignore_index))


def test_the_balance_is_the_batches_not_the_images() -> None:
    logits, labels = some_logits(), some_labels((2, 8, 10), 4)
    labels[0] = 1  # no boundary in this image, yet its negatives count
    assert_same(logits, boundary_loss(logits, labels), by_definition(logits, labels))
    assert boundary_loss(logits[:1], labels[:1]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_parts_of_a_batch_add_up_to_it_given_its_counts(dtype: torch.dtype) -> None:
    logits, labels = some_logits(3, dtype=dtype), some_labels((3, 8, 10), 4)
    labels[0] = 1  # alone it has no loss
    target = boundary_map_by_definition(labels, 2)
    counts = torch.stack([(target == kind).sum() for kind in (1, 0)]).double()
    parts = zip(logits.split([1, 2]), labels.split([1, 2]), strict=True)
    losses = [boundary_loss(*part, counts=counts) for part in parts]
    assert_same(logits, torch.stack(losses).sum(), boundary_loss(logits, labels))


def test_balanced_means_that_neither_kind_wins_at_the_start() -> None:
    logits = torch.zeros(2, 1, 8, 10, dtype=torch.float64, requires_grad=True)
    labels = some_labels((2, 8, 10), 2)
    loss, gradient = value_and_gradient(boundary_loss(logits, labels), logits)
    target = boundary_map_by_definition(labels, 2)
    share = (target == 1).sum() / (target != 255).sum()
    torch.testing.assert_close(loss.item(), 2 * share.item() * (1 - share.item()) * math.log(2), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.sum().item(), 0.0)
    assert (gradient[:, 0][target == 1] < 0).all()
    assert (gradient[:, 0][target == 0] > 0).all()


@pytest.mark.parametrize("resolution", [(8, 10), (4, 5)])
@pytest.mark.parametrize("scale", [0.0, 3.0, 1e4])
@pytest.mark.parametrize(
    "labels",
    [torch.zeros(8, 10).long(), torch.full((8, 10), 255), CHECKERBOARD, CHECKERBOARD * 250 + 5],
    ids=["one class", "all void", "all boundary", "one class and void"],
)
def test_one_kind_of_pixel_gives_zero_with_zero_gradients(
    labels: Tensor, scale: float, resolution: tuple[int, int]
) -> None:
    logits = some_logits(2, *resolution, dtype=torch.float32, scale=scale)
    loss, gradient = value_and_gradient(boundary_loss(logits, labels.expand(2, 8, 10)) * 65536, logits)
    assert loss == 0
    assert not gradient.any()


@pytest.mark.parametrize("resolution", [(8, 10), (2, 3)])
def test_an_empty_batch_gives_zero_and_can_be_trained_on(resolution: tuple[int, int]) -> None:
    logits = some_logits(0, *resolution)
    loss, gradient = value_and_gradient(boundary_loss(logits, torch.zeros(0, 8, 10, dtype=torch.long)), logits)
    assert loss == 0
    assert gradient.shape == logits.shape


@pytest.mark.parametrize("value", [1e4, torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_in_void_pixels_stays_there(value: float) -> None:
    logits, labels = some_logits(), some_labels((2, 8, 10), 4)
    valid = (labels != 255)[:, None]
    broken = torch.where(valid, logits.detach(), value).requires_grad_()
    loss, gradient = value_and_gradient(boundary_loss(broken, labels), broken)
    expected = value_and_gradient(boundary_loss(logits, labels), logits)
    torch.testing.assert_close((loss, torch.where(valid, gradient, 0)), expected)


@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_large_logits_cost_their_size(scale: float) -> None:
    labels = some_labels((2, 8, 10), 2)
    target = boundary_map_by_definition(labels, 2)
    share = ((target == 1).sum() / (target != 255).sum()).item()
    right = torch.where(target == 1, scale, -scale)[:, None]
    torch.testing.assert_close(boundary_loss(right, labels).item(), 0.0)
    torch.testing.assert_close(boundary_loss(-right, labels).item(), 2 * share * (1 - share) * scale)


@resolutions
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, resolution: tuple[int, int]) -> None:
    logits, labels = some_logits(2, *resolution, dtype=dtype), some_labels((2, 8, 10), 4)
    loss = boundary_loss(logits, labels)
    assert loss.dtype == torch.float32
    assert torch.autograd.grad(loss, logits, retain_graph=True)[0].dtype == dtype
    torch.testing.assert_close(loss.double(), by_definition(logits.double(), labels), rtol=1e-5, atol=1e-6)


def test_counts_are_exact_on_a_large_batch() -> None:
    """Products of its counts exceed 32 bits, and a float32 cannot count beyond 2^24."""
    labels = (torch.arange(4096) % 64 > 31).to(torch.uint8).expand(1, 4100, -1)
    loss = boundary_loss(torch.zeros(1, 1, 1, 1), labels)
    share = 127 * 4 / 4096  # two columns on either side of every edge
    torch.testing.assert_close(loss.item(), 2 * share * (1 - share) * math.log(2), rtol=1e-4, atol=0)


@resolutions
def test_the_gradient_agrees_with_differences(resolution: tuple[int, int]) -> None:
    labels = some_labels((1, 8, 10), 3)
    assert torch.autograd.gradcheck(lambda x: boundary_loss(x, labels), some_logits(1, *resolution))


@ways
@pytest.mark.parametrize("resolution", [(8, 10), (4, 5)])
def test_layout_context_and_compiler_change_nothing(way: str, resolution: tuple[int, int]) -> None:
    logits = some_logits(2, *resolution, dtype=torch.float32)
    assert_same_when_called(way, boundary_loss, logits, some_labels((2, 8, 10), 4))


LABELS = torch.zeros(2, 4, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (
            {"boundary_logits": torch.zeros(2, 4, 4)},
            ValueError,
            r"boundary_logits must .*\(N, 1, h, w\), got \(2, 4, 4\)",
        ),
        ({"boundary_logits": torch.zeros(2, 2, 4, 4)}, ValueError, r"boundary_logits must .*, got \(2, 2, 4, 4\)"),
        ({"boundary_logits": LABELS[:, None]}, TypeError, "boundary_logits must be floating point, got torch.int64"),
        ({"labels": LABELS.double()}, TypeError, "labels must be of an integer dtype.*, got torch.float64"),
        ({"labels": LABELS[0]}, ValueError, r"labels must have shape \(2, H, W\), got \(4, 4\)"),
        ({"labels": LABELS[:1]}, ValueError, r"labels must have shape \(2, H, W\), got \(1, 4, 4\)"),
        ({"radius": 0}, ValueError, "radius must be a whole number of pixels, at least 1, got 0"),
        ({"radius": 1.5}, ValueError, "radius must be a whole number of pixels, at least 1, got 1.5"),
        ({"labels": LABELS.to("meta")}, ValueError, "labels must be on the device of boundary_logits, cpu, got meta"),
    ],
)
def test_bad_input_is_an_error_that_names_it(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        boundary_loss(**{"boundary_logits": torch.zeros(2, 1, 4, 4), "labels": LABELS, **changed})
