"""The kernels of the losses of class logits and labels are as accurate as the references."""

from __future__ import annotations

import pytest
import torch
from class_losses import Loss, losses
from helpers import assert_same_when_called, leaf_grad, ways
from hypothesis import given, settings
from hypothesis import strategies as st
from three_way import DEVICE, FLOATS, assert_three_way, random, random_labels

pytestmark = [pytest.mark.kernel, losses]

# (logits' size, labels' size): the usual ratios, none that is whole, the same size, down, single pixels, wide ones,
# several parts
SIZES = [
    ((5, 7), (20, 28)), ((6, 5), (12, 10)), ((17, 20), (33, 47)), ((9, 8), (9, 8)), ((20, 31), (7, 50)),
    ((1, 2), (5, 19)), ((2, 80), (3, 300)), ((1, 1), (5, 3)), ((3, 3), (1, 1)), ((2, 2), (17, 16)),
]  # fmt: skip


@pytest.mark.parametrize(("size", "full"), SIZES, ids=str)
def test_the_kernel_is_as_accurate_as_the_reference(loss: Loss, size: tuple[int, int], full: tuple[int, int]) -> None:
    assert_three_way(loss.__name__, random(2, 3, *size), random_labels(3, 2, *full))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("size", "full"), [((4, 5), (16, 20)), ((6, 5), (6, 5)), ((2, 3), (13, 12))], ids=str)
def test_every_dtype_is_as_accurate_as_the_reference(
    loss: Loss, size: tuple[int, int], full: tuple[int, int], dtype: torch.dtype
) -> None:
    assert_three_way(loss.__name__, random(1, 3, *size, dtype=dtype), random_labels(3, 1, *full))


@pytest.mark.parametrize("classes", [1, 2, 19, 150])
def test_any_number_of_classes(loss: Loss, classes: int) -> None:
    assert_three_way(loss.__name__, random(1, classes, 3, 4), random_labels(classes, 1, 7, 9))


@settings(max_examples=4)
@given(
    size=st.tuples(st.integers(1, 18), st.integers(1, 18)),
    full=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    dtype=st.sampled_from((torch.uint8, torch.int16, torch.int32, torch.int64)),
    strided=st.booleans(),
)
def test_any_shape_is_as_accurate_as_the_reference(
    loss: Loss, size: tuple[int, int], full: tuple[int, int], dtype: torch.dtype, strided: bool
) -> None:
    logits = random(1, 4, *size)
    labels = random_labels(4, 1, *full, dtype=dtype)
    if strided:
        logits, labels = logits.mT.contiguous().mT, labels.mT.contiguous().mT
    assert_three_way(loss.__name__, logits, labels)


@ways
def test_layout_context_and_compiler_change_nothing(loss: Loss, way: str) -> None:
    assert_same_when_called(way, loss, random(2, 3, 4, 5), random_labels(3, 2, 8, 10))


def test_no_valid_pixel_gives_zero_and_zero_gradient(loss: Loss) -> None:
    logits = random(1, 3, 2, 2).requires_grad_()
    value = loss(logits, torch.full((1, 4, 4), 255, device=DEVICE))
    value.backward()
    assert value == 0
    assert not leaf_grad(logits).any()


def test_an_empty_batch_gives_zero(loss: Loss) -> None:
    logits = random(0, 3, 2, 2).requires_grad_()
    value = loss(logits, random_labels(3, 0, 4, 4))
    value.backward()
    assert value == 0
    assert leaf_grad(logits).shape == logits.shape


def test_classes_masked_by_infinity_at_the_same_size(loss: Loss) -> None:
    logits = random(1, 3, 4, 4)
    logits[:, 2] = -torch.inf
    assert_three_way(loss.__name__, logits, random_labels(2, 1, 4, 4))


def test_large_logits_do_not_overflow(loss: Loss) -> None:
    assert_three_way(loss.__name__, random(1, 3, 4, 4, scale=1e4), random_labels(3, 1, 12, 12))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_in_void_pixels_stays_there(loss: Loss, value: float) -> None:
    logits, labels = random(1, 3, 8, 8), random_labels(3, 1, 8, 8)
    valid = (labels != 255)[:, None]
    broken = torch.where(valid, logits, value).requires_grad_()
    found, expected = loss(broken, labels), loss(logits.requires_grad_(), labels)
    assert found == expected
    gradients = (
        torch.where(valid, torch.autograd.grad(value, leaf)[0], 0)
        for value, leaf in ((found, broken), (expected, logits))
    )
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_is_not_finite_elsewhere_is_seen(loss: Loss, value: float) -> None:
    logits = random(1, 3, 8, 8)
    logits[0, 1, 2, 3] = value
    found = loss(logits.requires_grad_(), torch.zeros(1, 8, 8, dtype=torch.int64, device=DEVICE))
    found.backward()
    assert not found.isfinite()
    assert leaf_grad(logits)[0, :, 2, 3].isnan().any()


@pytest.mark.parametrize("label", [3, -1, 254])
@pytest.mark.parametrize("others", [0, 255], ids=["valid", "void"])
def test_a_label_that_is_no_class_makes_the_loss_nan(loss: Loss, label: int, others: int) -> None:
    labels = torch.full((1, 4, 4), others)
    labels[0, 1, 2] = label
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inverseform_fast.checks.check_class_ids", lambda *_: None)  # a GPU has no such check
        assert loss(random(1, 3, 4, 4), labels.to(DEVICE)).isnan()


def test_no_gradient_is_made_where_none_is_wanted(loss: Loss) -> None:
    with torch.no_grad():
        assert loss(random(1, 3, 2, 2), random_labels(3, 1, 4, 4)).isfinite()
    assert not loss(random(1, 3, 2, 2), random_labels(3, 1, 4, 4)).requires_grad


def test_a_second_derivative_is_refused(loss: Loss) -> None:
    logits = random(1, 3, 2, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, random_labels(3, 1, 4, 4)), logits, create_graph=True)
    with pytest.raises(RuntimeError, match=f"{loss.__name__}_backward"):
        gradient.sum().backward()


@pytest.mark.triton
@pytest.mark.parametrize("shape", [(40000, 8), (8, 32001)], ids=str)
def test_an_edge_too_long_is_refused(loss: Loss, shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="height and width must be at most 32000 pixels for the Triton kernels, got"):
        loss(random(1, 1, 2, 2), torch.zeros(1, *shape, dtype=torch.uint8, device=DEVICE))
