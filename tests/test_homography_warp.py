"""homography_warp equals sampling by hand, is exact where it can be, and composes in the right order."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same_when_called, leaf_grad, ways
from three_way import assert_three_way
from torch import Tensor

from inverseform_fast import reference
from inverseform_fast.functional import homography_warp

EYE = torch.eye(3, dtype=torch.float64)
sizes = pytest.mark.parametrize("size", [None, (5, 9), (12, 4), (1, 1)], ids=str)
modes = pytest.mark.parametrize("mode", ["bilinear", "nearest"])
paddings = pytest.mark.parametrize("padding", ["zeros", "border"])


def some_images(n: int = 2, c: int = 3, h: int = 7, w: int = 6) -> Tensor:
    return torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def some_thetas(n: int = 2, strength: float = 0.2) -> Tensor:
    """Draws homographies that move in all eight directions at once."""
    return EYE + strength * torch.randn(n, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def grid_by_hand(theta: Tensor, height: int, width: int) -> Tensor:
    grid = torch.empty(len(theta), height, width, 2, dtype=torch.float64)
    for n, i, j in itertools.product(range(len(theta)), range(height), range(width)):
        x, y, depth = theta[n] @ torch.tensor([(2 * j + 1) / width - 1, (2 * i + 1) / height - 1, 1], dtype=theta.dtype)
        grid[n, i, j] = torch.stack([x, y]) / depth if depth > 0 else torch.tensor([100.0, 100.0])
    return grid


def theta_of(*rows: tuple[float, float, float]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float64)


def smooth_image(size: int) -> Tensor:
    t = (torch.arange(size) + 0.5).double() / size * 2 * math.pi
    return (torch.sin(2 * t)[:, None] * torch.cos(t) + 0.3 * torch.cos(3 * t))[None, None]


@sizes
@modes
@paddings
@pytest.mark.parametrize("strength", [0.05, 0.3])
def test_grid_sample_of_a_grid_by_hand(size: tuple[int, int] | None, mode: str, padding: str, strength: float) -> None:
    image, theta = some_images(), some_thetas(strength=strength)
    grid = grid_by_hand(theta, *(size or image.shape[2:]))
    expected = F.grid_sample(image, grid, mode=mode, padding_mode=padding, align_corners=False)
    torch.testing.assert_close(homography_warp(image, theta, size, mode, padding), expected)


@pytest.mark.parametrize("dx", [-7, -1, 0, 2])
@pytest.mark.parametrize("dy", [-2, 0, 1, 6])
def test_whole_pixel_shifts(dx: int, dy: int) -> None:
    """Output points are sent to input points, x to the right and y down: the content moves against the shift."""
    image = some_images(n=1)
    h, w = image.shape[2:]
    theta = theta_of((1, 0, 2 * dx / w), (0, 1, 2 * dy / h), (0, 0, 1))
    rows, columns = slice(10 + dy, 10 + dy + h), slice(10 + dx, 10 + dx + w)
    expected = F.pad(image, (10, 10, 10, 10))[..., rows, columns]
    bordered = F.pad(image, (10, 10, 10, 10), mode="replicate")[..., rows, columns]
    torch.testing.assert_close(homography_warp(image, theta), expected)
    torch.testing.assert_close(homography_warp(image, theta, mode="nearest"), expected)
    torch.testing.assert_close(homography_warp(image, theta, padding="border"), bordered)


@pytest.mark.parametrize(
    ("theta", "expected"),
    [
        (theta_of((-1, 0, 0), (0, 1, 0), (0, 0, 1)), lambda x: x.flip(3)),
        (theta_of((1, 0, 0), (0, -1, 0), (0, 0, 1)), lambda x: x.flip(2)),
        (theta_of((0, 1, 0), (1, 0, 0), (0, 0, 1)), lambda x: x.mT),
        (theta_of((0, -1, 0), (1, 0, 0), (0, 0, 1)), lambda x: x.rot90(1, (2, 3))),
        (theta_of((0, 1, 0), (-1, 0, 0), (0, 0, 1)), lambda x: x.rot90(-1, (2, 3))),
        (theta_of((1, 0, 0), (0, 1, 0), (0, 0, 1)), lambda x: x),
        (theta_of((2, 0, 0), (0, 2, 0), (0, 0, 2)), lambda x: x),
    ],
    ids=["flip x", "flip y", "transpose", "quarter turn", "quarter turn back", "identity", "multiple of the identity"],
)
def test_flips_and_turns_move_pixels_exactly(theta: Tensor, expected: Any) -> None:
    image = some_images(n=1, h=6, w=6)
    torch.testing.assert_close(homography_warp(image, theta), expected(image))
    assert homography_warp(image, theta, mode="nearest").equal(expected(image))


@pytest.mark.parametrize("seed", range(3))
def test_warping_twice_is_warping_by_the_product(seed: int) -> None:
    """warp(warp(x, A), B) is warp(x, A B), not warp(x, B A)."""
    image = smooth_image(96)
    first, second = EYE + 0.15 * torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(seed)).double()
    twice = homography_warp(homography_warp(image, first, padding="border"), second, padding="border")
    inside = homography_warp(homography_warp(torch.ones_like(image), first), second) > 0.999
    right, wrong = homography_warp(image, first @ second), homography_warp(image, second @ first)
    assert inside.sum() > 1000
    assert (right - twice)[inside].abs().max() < 0.01 < 0.05 < (wrong - twice)[inside].abs().max()


@sizes
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_nearest_keeps_labels_of_any_integer_type(dtype: torch.dtype, size: tuple[int, int] | None) -> None:
    top = min(torch.iinfo(dtype).max, 2**24)
    labels = torch.randint(top - 100, top, (2, 1, 7, 6), generator=torch.Generator().manual_seed(0)).to(dtype)
    theta = some_thetas()
    x, y = (grid_by_hand(theta, *(size or (7, 6))) * torch.tensor([6, 7]) / 2 + torch.tensor([2.5, 3.0])).unbind(-1)
    column, row = x.round().long(), y.round().long()
    inside = (column == column.clamp(0, 5)) & (row == row.clamp(0, 6))
    picked = labels[torch.arange(2)[:, None, None], 0, row.clamp(0, 6), column.clamp(0, 5)]
    warped = homography_warp(labels, theta, size, mode="nearest")
    assert warped.dtype == dtype
    assert warped[:, 0].equal(picked * inside)


def test_what_lies_behind_the_projection_centre_is_outside() -> None:
    theta = theta_of((1, 0, 0), (0, 1, 0), (4, 0, 1)).requires_grad_()  # depth 1 + 4x: x < -0.25 is behind
    image = torch.ones(1, 1, 4, 16, dtype=torch.float64, requires_grad=True)
    warped = homography_warp(image, theta)
    assert not warped[..., :6].any()  # although x / (1 + 4x) lies inside the image
    assert warped[..., 8:].all()
    torch.testing.assert_close(homography_warp(image, theta, padding="border"), torch.ones_like(image))
    for gradient in torch.autograd.grad(warped.sum(), (image, theta)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize(("shift", "depth"), [(0.5, 0.0), (0.5, 1e-30), (0.5, -1e-30), (0.5, 1e-9), (3e38, 1.0)])
def test_points_at_infinity_are_outside_with_finite_gradients(shift: float, depth: float) -> None:
    theta = torch.tensor([[[1, 0, shift], [0, 1, shift], [0, 0, depth]]], requires_grad=True)
    image = torch.ones(1, 1, 4, 4, requires_grad=True)
    warped = homography_warp(image, theta)
    assert not warped.any()
    for gradient in torch.autograd.grad(warped.sum(), (image, theta)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
def test_a_broken_theta_touches_no_other_row(bad: float) -> None:
    image, theta = some_images(n=3).requires_grad_(), some_thetas(n=3)
    theta[1] = bad
    good = [0, 2]
    warped, expected = homography_warp(image, theta.requires_grad_())[good], homography_warp(image[good], theta[good])
    assert warped.equal(expected)
    actual, wanted = (torch.autograd.grad(x.square().sum(), (image, theta)) for x in (warped, expected))
    assert all(a[good].equal(b[good]) for a, b in zip(actual, wanted, strict=True))


@paddings
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_broken_theta_has_a_gradient(bad: float, padding: str) -> None:
    """With padding "border", torch 2.11's grid_sample crashes on such a theta."""
    image, theta = some_images().requires_grad_(), torch.full((2, 3, 3), bad).double().requires_grad_()
    homography_warp(image, theta, padding=padding).sum().backward()
    assert leaf_grad(image).shape == image.shape
    assert leaf_grad(theta).shape == theta.shape


@sizes
@paddings
def test_the_gradient_agrees_with_differences(size: tuple[int, int] | None, padding: str) -> None:
    image, theta = some_images(c=2, h=4, w=3).requires_grad_(), some_thetas(strength=0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, t: homography_warp(x, t, size, padding=padding), (image, theta))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["image", "theta"])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    inputs: dict[str, Any] = {"image": some_images(h=61, w=47).float(), "theta": some_thetas(strength=0.1).float()}
    inputs[name] = inputs[name].to(dtype)
    exact = homography_warp(inputs["image"].double(), inputs["theta"].double())
    warped = homography_warp(**inputs)
    assert warped.dtype == inputs["image"].dtype
    error = 1e-2 if warped.dtype == torch.bfloat16 else 1e-3 if warped.dtype == torch.float16 else 1e-4
    torch.testing.assert_close(warped, exact.to(warped.dtype), rtol=error, atol=error)


@ways
@pytest.mark.parametrize("size", [None, (5, 9)])
def test_layout_context_and_compiler_change_nothing(way: str, size: tuple[int, int] | None) -> None:
    assert_same_when_called(way, homography_warp, some_images().float(), some_thetas().float(), size)


@modes
def test_views_of_an_image_are_its_warps_by_each_theta(mode: str) -> None:
    images, thetas = some_images(), torch.stack([some_thetas(), EYE.expand(2, 3, 3), some_thetas(strength=0.5)], 1)
    views = homography_warp(images, thetas, (5, 9), mode)
    assert views.shape == (2, 3, 3, 5, 9)
    for view, theta in zip(views.unbind(1), thetas.unbind(1), strict=True):
        assert view.equal(homography_warp(images, theta, (5, 9), mode))


def test_an_empty_batch_gives_an_empty_batch() -> None:
    assert homography_warp(some_images(n=0), some_thetas(n=0), (4, 5)).shape == (0, 3, 4, 5)


# (image's size, result's size): single pixels, less than a vector, more than a piece of a row
CPU_SIZES = [((1, 1), (5, 3)), ((7, 6), (1, 1)), ((9, 30), (33, 47)), ((2, 300), (3, 530))]


@pytest.mark.usefixtures("cpu_kernels")
@modes
@paddings
@pytest.mark.parametrize(("image", "size"), CPU_SIZES, ids=str)
@pytest.mark.parametrize("strength", [0.1, 1.0])
def test_cpu_kernel(image: tuple[int, int], size: tuple[int, int], mode: str, padding: str, strength: float) -> None:
    inputs = some_images(2, 3, *image).float(), some_thetas(strength=strength).float()
    assert_three_way("homography_warp", *inputs, size=size, mode=mode, padding=padding)


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["image", "theta", "both"])
def test_cpu_kernel_in_half_precision(name: str, dtype: torch.dtype) -> None:
    image = some_images().to(torch.float32 if name == "theta" else dtype)
    theta = some_thetas().to(torch.float32 if name == "image" else dtype)
    assert_three_way("homography_warp", image, theta, size=(8, 19))


@pytest.mark.usefixtures("cpu_kernels")
@modes
@paddings
@pytest.mark.parametrize(
    "theta",
    [
        torch.zeros(3, 3),
        torch.tensor([[1.0, 0, 0], [0, 1, 0], [2, 0, 0]]),
        -torch.eye(3),
        1e30 * torch.eye(3),
        torch.tensor([[3e38, 0, 0], [0, -3e38, 0], [0, 0, 1]]),
        torch.full((3, 3), torch.inf),
        torch.full((3, 3), torch.nan),
    ],
    ids=["zero", "horizon", "behind", "multiple", "far", "inf", "NaN"],
)
def test_cpu_kernel_with_a_wild_theta(theta: Tensor, mode: str, padding: str) -> None:
    """It equals the reference; gradients are finite unless theta is not, and a neighbour's are as if it were alone."""
    image, both = some_images(w=40).float().requires_grad_(), torch.stack((theta, torch.eye(3))).requires_grad_()
    warped, alone = (homography_warp(image[n:], both[n:], None, mode, padding) for n in (0, 1))
    torch.testing.assert_close(warped, reference.homography_warp(image, both, None, mode, padding), equal_nan=True)
    grad_image, grad_theta = torch.autograd.grad(warped.square().sum(), (image, both))
    grad_image_alone, grad_theta_alone = torch.autograd.grad(alone.square().sum(), (image, both))
    assert warped[1:].equal(alone)
    assert grad_image[1].equal(grad_image_alone[1])
    assert grad_theta[1].equal(grad_theta_alone[1])
    if theta.isfinite().all():
        assert grad_image.isfinite().all()
        assert grad_theta.isfinite().all()


@pytest.mark.usefixtures("cpu_kernels")
@modes
def test_cpu_kernel_touches_nothing_for_points_outside(mode: str) -> None:
    """Neither NaN on the image's edge nor NaN in their own gradient comes through."""
    image = F.pad(torch.ones(1, 1, 4, 20), (1, 1, 1, 1), value=torch.nan).requires_grad_()
    theta = torch.diag(torch.tensor([3.0, 3.0, 1.0]))[None]
    incoming = torch.ones(1, 1, 18, 66)
    incoming[..., :5, :] = incoming[..., :20] = torch.nan
    results = [op(image, theta, (18, 66), mode) for op in (homography_warp, reference.homography_warp)]
    torch.testing.assert_close(*results, equal_nan=True)
    gradients = [torch.autograd.grad(result, image, incoming)[0] for result in results]
    torch.testing.assert_close(*gradients)


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize(("n", "views", "channels"), [(0, 2, 3), (2, 0, 3), (2, 2, 0)])
def test_cpu_kernel_of_nothing(n: int, views: int, channels: int) -> None:
    image, theta = torch.zeros(n, channels, 4, 5, requires_grad=True), torch.zeros(n, views, 3, 3, requires_grad=True)
    warped = homography_warp(image, theta, (6, 7))
    assert warped.shape == (n, views, channels, 6, 7)
    grad_image, grad_theta = torch.autograd.grad(warped.sum(), (image, theta))
    assert grad_image.equal(torch.zeros_like(image))
    assert grad_theta.equal(torch.zeros_like(theta))


@pytest.mark.usefixtures("cpu_kernels")
def test_cpu_kernel_does_not_depend_on_the_number_of_threads() -> None:
    image, theta = some_images(4, 1, 200, 200).float().requires_grad_(), some_thetas(4).float().requires_grad_()
    results = []
    for threads in (2, 1):  # at last as in conftest.py
        torch.set_num_threads(threads)
        warped = homography_warp(image, theta)
        results.append((warped, *torch.autograd.grad(warped.square().sum(), (image, theta))))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"image": torch.zeros(2, 4, 4)}, ValueError, r"image must have shape \(N, C, H, W\), got \(2, 4, 4\)"),
        ({"image": torch.zeros(2, 1, 0, 4)}, ValueError, r"image must have shape \(N, C, H, W\), got \(2, 1, 0, 4\)"),
        ({"image": torch.zeros(2, 1, 4, 4).long()}, TypeError, "image must be floating point.*got torch.int64"),
        ({"theta": torch.eye(3)}, ValueError, r"theta must be .*\(2, T, 3, 3\), got torch.float32 \(3, 3\)"),
        ({"theta": torch.zeros(1, 3, 3)}, ValueError, r"theta must be .*\(2, T, 3, 3\), got torch.float32 \(1, 3, 3\)"),
        ({"theta": torch.zeros(2, 2, 3)}, ValueError, r"theta must be .*\(2, T, 3, 3\), got torch.float32 \(2, 2, 3\)"),
        ({"theta": torch.zeros(2, 3, 3).int()}, ValueError, "theta must be floating point .*got torch.int32"),
        (
            {"theta": torch.zeros(2, 3, 3, device="meta")},
            ValueError,
            "theta must be on the device of image, cpu, got meta",
        ),
        ({"size": (4, 0)}, ValueError, r"size must be \(height, width\) in pixels, got \(4, 0\)"),
        ({"size": 4}, (TypeError, ValueError), r"size must be \(height, width\) in pixels, got 4"),
        ({"mode": "bicubic"}, ValueError, "mode must be 'bilinear' or 'nearest', got 'bicubic'"),
        ({"padding": "reflection"}, ValueError, "padding must be 'zeros' or 'border', got 'reflection'"),
    ],
)
def test_bad_input_is_an_error_that_names_it(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    good = {"image": torch.zeros(2, 1, 4, 4), "theta": torch.eye(3).expand(2, 3, 3)}
    with pytest.raises(error, match=message):
        homography_warp(**{**good, **changed})


@pytest.mark.parametrize(
    ("dtype", "far"),
    [
        *itertools.product((torch.int32, torch.int64), (2**24 + 1, -(2**24) - 1)),
        (torch.uint32, 2**32 - 1),
        (torch.uint64, 2**63),
    ],
    ids=str,
)
def test_whole_numbers_that_float32_does_not_hold_are_refused(dtype: torch.dtype, far: int) -> None:
    with pytest.raises(ValueError, match=rf"image must hold whole numbers up to 2\^24, got {far}"):
        homography_warp(torch.full((1, 1, 2, 2), far, dtype=dtype), torch.eye(3)[None], mode="nearest")
