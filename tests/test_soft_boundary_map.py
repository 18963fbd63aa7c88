"""soft_boundary_map equals its definition, written as loops, and boundary_map where predictions are certain."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same_when_called, some_labels, ways
from three_way import FLOATS, assert_three_way
from torch import Tensor

import inverseform_fast as iff
from inverseform_fast.functional import boundary_map, soft_boundary_map

SHAPES = [(2, 3, 5, 6), (1, 4, 1, 7), (1, 2, 8, 1), (2, 1, 4, 4), (1, 5, 1, 1)]


def some_logits(shape: tuple[int, ...], scale: float = 3.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(dtype)


def by_definition(logits: Tensor, radius: int) -> Tensor:
    """Computes 1 - product over the neighbours within radius of sum_c sqrt(p_c(here) p_c(there))."""
    p = logits.softmax(1)
    n, _, h, w = p.shape
    all_agree = torch.ones(n, 1, h, w, dtype=p.dtype)
    for (y, x), (v, u) in itertools.permutations(itertools.product(range(h), range(w)), 2):
        if math.dist((y, x), (v, u)) <= radius:
            all_agree[..., y, x] *= (p[..., y, x] * p[..., v, u]).sqrt().sum(1, keepdim=True)
    return 1 - all_agree


def one_hot_logits(labels: Tensor, classes: int, sure: float = 50.0) -> Tensor:
    return sure * F.one_hot(labels, classes).movedim(-1, 1).float()


@pytest.mark.parametrize("radius", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_map_is_its_definition(shape: tuple[int, ...], radius: int) -> None:
    logits = some_logits(shape)
    torch.testing.assert_close(soft_boundary_map(logits, radius=radius), by_definition(logits, radius))


def test_radius_defaults_to_two_and_size_to_the_logits() -> None:
    logits = some_logits((1, 3, 6, 7))
    torch.testing.assert_close(soft_boundary_map(logits), by_definition(logits, 2))


@pytest.mark.parametrize("radius", [1, 2, 3, 4])
def test_is_boundary_map_where_predictions_are_certain(radius: int) -> None:
    labels = some_labels((2, 31, 23), 7, void=None)
    soft = soft_boundary_map(one_hot_logits(labels, 7), radius=radius)
    torch.testing.assert_close(soft[:, 0], boundary_map(labels, radius).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("classes", [1, 2, 19, 150])
def test_is_zero_where_neighbours_agree_however_unsure(classes: int, scale: float) -> None:
    flat = some_logits((2, classes, 1, 1), scale, torch.float32).expand(-1, -1, 9, 8)
    soft = soft_boundary_map(flat)
    assert 0 <= soft.min() <= soft.max() < 1e-4  # 12 neighbours, each a rounded sum over the classes


def test_grows_with_the_contrast_of_an_edge() -> None:
    sides = one_hot_logits((torch.arange(12) > 5).long().expand(1, 4, -1), 2, sure=1.0)
    across = torch.stack([soft_boundary_map(k * sides)[0, 0, 2] for k in (0, 1, 2, 4, 8)])
    assert (across.diff(dim=0)[:, 4:8] > 0).all()
    assert across[:, [0, 3, 8, 11]].abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0, 1e4])
def test_is_a_probability_with_finite_gradients(scale: float, dtype: torch.dtype) -> None:
    logits = some_logits((2, 5, 7, 9), scale, dtype).requires_grad_()
    soft = soft_boundary_map(logits)
    assert soft.min() >= 0
    assert soft.max() <= 1
    soft.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_class_that_is_masked_out_counts_for_nothing() -> None:
    logits = some_logits((1, 4, 5, 6))
    masked = torch.cat([logits, torch.full((1, 1, 5, 6), -torch.inf)], 1).requires_grad_()
    soft = soft_boundary_map(masked)
    torch.testing.assert_close(soft, soft_boundary_map(logits))
    (gradient,) = torch.autograd.grad(soft.sum(), masked)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_gradient_agrees_with_differences(shape: tuple[int, ...]) -> None:
    assert torch.autograd.gradcheck(soft_boundary_map, some_logits(shape, 1.0).requires_grad_())


def test_gradient_through_upsampling() -> None:
    logits = some_logits((1, 3, 3, 2), 1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: soft_boundary_map(x, (5, 7), 1), logits)


@pytest.mark.parametrize("size", [(20, 28), (11, 9), (5, 7), (3, 3), torch.Size((10, 14))], ids=str)
def test_size_upsamples_the_logits_first(size: tuple[int, int]) -> None:
    logits = some_logits((2, 3, 5, 7))
    upsampled = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
    torch.testing.assert_close(soft_boundary_map(logits, size), soft_boundary_map(upsampled))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits = some_logits((2, 5, 7, 9), dtype=dtype).requires_grad_()
    soft, expected = soft_boundary_map(logits, (14, 18)), soft_boundary_map(logits.float(), (14, 18))
    assert soft.dtype == torch.float32
    torch.testing.assert_close(soft, expected)
    (gradient,) = torch.autograd.grad(soft.sum(), logits)
    assert gradient.dtype == dtype


def test_only_differences_of_logits_count_and_classes_have_no_order() -> None:
    logits = some_logits((1, 4, 6, 7))
    changed = logits[:, [2, 0, 3, 1]] + some_logits((1, 1, 6, 7), 10.0)
    torch.testing.assert_close(soft_boundary_map(changed), soft_boundary_map(logits))


@pytest.mark.parametrize("size", [None, (8, 10)])
def test_an_empty_batch_gives_an_empty_map(size: tuple[int, int] | None) -> None:
    logits = torch.zeros(0, 3, 4, 5, requires_grad=True)
    soft = soft_boundary_map(logits, size)
    assert soft.shape == (0, 1, *(size or (4, 5)))
    soft.sum().backward()


@ways
@pytest.mark.parametrize("size", [None, (14, 11)])
def test_layout_context_and_compiler_change_nothing(way: str, size: tuple[int, int] | None) -> None:
    assert_same_when_called(way, soft_boundary_map, some_logits((2, 5, 7, 9), dtype=torch.float32), size)


# (logits' size, map's size): the usual ratios, none that is whole, the same size, down, up one way only, more than a
# block of pixels in a row, single pixels
SIZES = [
    ((5, 7), (20, 28)), ((17, 20), (33, 47)), ((9, 8), (9, 8)), ((20, 31), (7, 50)), ((4, 300), (4, 600)),
    ((1, 2), (5, 19)), ((3, 3), (1, 1)),
]  # fmt: skip


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize(("size", "full"), SIZES, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_cpu_kernel(size: tuple[int, int], full: tuple[int, int], dtype: torch.dtype) -> None:
    assert_three_way("soft_boundary_map", some_logits((2, 3, *size), dtype=dtype), size=full)


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("radius", [1, 3, 6, 20])
def test_cpu_kernel_with_any_radius(radius: int) -> None:
    """The last radius is longer than the map's diagonal."""
    assert_three_way("soft_boundary_map", some_logits((2, 3, 5, 7), 1.0, torch.float32), size=(10, 14), radius=radius)


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("classes", [1, 2, 19, 150])
def test_cpu_kernel_with_any_number_of_classes(classes: int) -> None:
    assert_three_way("soft_boundary_map", some_logits((1, classes, 10, 18), dtype=torch.float32), size=(40, 70))


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("scale", [0.0, 1e-3, 30.0, 1e4, 1e30])
def test_cpu_kernel_with_logits_of_any_scale(scale: float) -> None:
    assert_three_way("soft_boundary_map", some_logits((2, 5, 7, 9), scale, torch.float32), size=(14, 18))


@pytest.mark.usefixtures("cpu_kernels")
def test_cpu_kernel_of_a_single_pixel_upsampled_finds_nothing() -> None:
    logits = some_logits((2, 3, 1, 1), dtype=torch.float32).requires_grad_()
    soft = soft_boundary_map(logits, (5, 3))
    (gradient,) = torch.autograd.grad(soft.sum(), logits)
    assert max(soft.max(), gradient.abs().max()) < 1e-5


@pytest.mark.usefixtures("cpu_kernels")
def test_cpu_kernel_of_an_empty_batch() -> None:
    logits = torch.zeros(0, 3, 4, 5, requires_grad=True)
    soft = soft_boundary_map(logits, (8, 10))
    assert soft.shape == (0, 1, 8, 10)
    assert torch.autograd.grad(soft.sum(), logits)[0].shape == logits.shape


@pytest.mark.usefixtures("cpu_kernels")
def test_cpu_kernel_of_certain_predictions() -> None:
    labels = some_labels((2, 31, 23), 7, void=None)
    logits = one_hot_logits(labels, 7, sure=200.0).requires_grad_()
    soft = soft_boundary_map(logits)
    assert soft[:, 0].equal(boundary_map(labels).float())
    soft.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.usefixtures("cpu_kernels")
def test_cpu_kernel_with_a_masked_class() -> None:
    logits = some_logits((1, 4, 5, 6), dtype=torch.float32)
    masked = torch.cat([logits, torch.full((1, 1, 5, 6), -torch.inf)], 1).requires_grad_()
    soft = soft_boundary_map(masked)
    torch.testing.assert_close(soft, soft_boundary_map(logits))
    (gradient,) = torch.autograd.grad(soft.sum(), masked)
    assert gradient.isfinite().all()


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_cpu_kernel_shows_what_is_not_a_number_where_it_is(bad: float) -> None:
    logits = some_logits((2, 3, 20, 24), dtype=torch.float32)
    expected = soft_boundary_map(logits)
    logits[1, 2, 10, 12] = bad
    soft = soft_boundary_map(logits.requires_grad_())
    near = (torch.arange(20)[:, None] - 10) ** 2 + (torch.arange(24) - 12) ** 2 <= 4
    assert soft[1, 0][near].isnan().all()
    assert torch.where(near, 0, soft[1, 0]).equal(torch.where(near, 0, expected[1, 0]))
    assert soft[0].equal(expected[0])
    (gradient,) = torch.autograd.grad(soft.sum(), logits)
    assert gradient[1, :, 10, 12].isnan().all()
    assert gradient[0].isfinite().all()


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize(("size", "full"), [((17, 20), (130, 75)), ((130, 20), (130, 20)), ((200, 20), (90, 20))])
def test_cpu_kernel_on_any_number_of_threads(size: tuple[int, int], full: tuple[int, int]) -> None:
    logits = some_logits((2, 5, *size), dtype=torch.float32).requires_grad_()

    def value_and_gradient() -> tuple[Tensor, Tensor]:
        soft = soft_boundary_map(logits, full)
        return soft, torch.autograd.grad(soft.square().sum(), logits)[0]

    one = value_and_gradient()
    torch.set_num_threads(3)
    try:
        three = value_and_gradient()
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(three, one, rtol=0, atol=0)


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_cpu_kernel_as_torch_sees_it(channels_last: bool, dtype: torch.dtype) -> None:
    logits = some_logits((2, 5, 4, 5), dtype=dtype)
    if channels_last:
        logits = logits.contiguous(memory_format=torch.channels_last)
    op = torch.ops.inverseform_fast.soft_boundary_map.default
    torch.library.opcheck(op, (logits.requires_grad_(), [8, 10], 2))
    soft = op(logits, [8, 10], 2)[0]
    assert soft.dtype == torch.float32
    (gradient,) = torch.autograd.grad(soft.sum(), logits)
    assert (gradient.dtype, gradient.stride()) == (dtype, logits.stride())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"logits": torch.zeros(2, 3, 4)}, "logits must be"),
        ({"logits": torch.zeros(2, 0, 4, 4)}, "logits must be"),
        ({"logits": torch.zeros(2, 3, 4, 0)}, "must have height and width"),
        ({"size": [8, 0]}, "must have height and width"),
        ({"size": [8]}, "size must be"),
        ({"radius": 0}, "radius must be positive"),
    ],
)
@pytest.mark.usefixtures("cpu_kernels")
def test_cpu_kernel_refuses_what_it_would_read_beyond(changed: dict[str, Any], message: str) -> None:
    arguments = {"logits": torch.zeros(2, 3, 4, 4), "size": [8, 8], "radius": 2, **changed}
    with pytest.raises(RuntimeError, match=message):
        torch.ops.inverseform_fast.soft_boundary_map(*arguments.values())


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("shape", [(2, 1, 8, 7), (1, 1, 8, 8), (2, 8, 8)], ids=str)
def test_cpu_kernel_refuses_a_gradient_of_another_shape(shape: tuple[int, ...]) -> None:
    for grad, logarithm in ((shape, (2, 1, 8, 8)), ((2, 1, 8, 8), shape)):
        with pytest.raises(RuntimeError, match="must be"):
            torch.ops.inverseform_fast.soft_boundary_map_backward_cpu(
                torch.zeros(grad), torch.zeros(logarithm), torch.zeros(2, 3, 4, 4), 2
            )


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 3, 0, 4), (1, 3, 4, 0), (1, 0, 4, 4)], ids=str)
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"logits must have shape \(N, C, h, w\), got \(" + ", ".join(map(str, shape))):
        soft_boundary_map(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.complex64], ids=str)
def test_logits_of_another_type_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"logits must be floating point, got {dtype}"):
        soft_boundary_map(torch.zeros(1, 2, 4, 4, dtype=dtype))


@pytest.mark.parametrize("size", [(4,), (4, 4, 4), (0, 4), (4, -1), 4, (4.0, 4.0)], ids=str)
def test_another_size_is_refused(size: tuple[int, ...]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"size must be \(height, width\) in pixels, got"):
        soft_boundary_map(torch.zeros(1, 2, 4, 4), size)


@pytest.mark.parametrize("radius", [0, -1, 1.5])
def test_radius_is_a_whole_number_from_one(radius: int) -> None:
    with pytest.raises(ValueError, match=f"radius must be a whole number of pixels, at least 1, got {radius}"):
        soft_boundary_map(torch.zeros(1, 2, 4, 4), radius=radius)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("size", [(6, 8), (13, 17)], ids=str)
def test_as_logits_it_is_what_a_boundary_head_gives(backend: str, size: tuple[int, int]) -> None:
    logits = 6 * torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    logits[0] = 0  # no boundary: the probability is clamped, and has no gradient
    logits.requires_grad_()
    with iff.set_backend(backend):
        found = soft_boundary_map(logits, size, as_logits=True)
        probability = soft_boundary_map(logits, size)
    torch.testing.assert_close(found, probability.logit(eps=1e-6), rtol=1e-5, atol=2e-6)
    actual, expected = (torch.autograd.grad(x.sum(), logits)[0] for x in (found, probability.logit(eps=1e-6)))
    torch.testing.assert_close(actual, expected)
    assert not actual[0].any()
