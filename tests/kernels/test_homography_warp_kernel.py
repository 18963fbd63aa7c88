"""The kernels of homography_warp are as accurate as the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import three_way
import torch
from helpers import assert_same_when_called, leaf_grad, ways
from hypothesis import given, settings
from hypothesis import strategies as st
from three_way import DEVICE, FLOATS, random
from torch import Tensor

from inverseform_fast import homography, reference
from inverseform_fast.functional import homography_warp
from inverseform_fast.ops import backend
from inverseform_fast.ops.backend import INTERPRETED

pytestmark = pytest.mark.kernel
paddings = pytest.mark.parametrize("padding", ["zeros", "border"])


def is_compiled() -> bool:
    """Whether quotients may err by 2 units in the last place, as a GPU's do; elsewhere they are rounded correctly."""
    return backend.chosen() == "triton" and not INTERPRETED


def assert_three_way(*inputs: Any, **options: Any) -> None:
    three_way.assert_three_way("homography_warp", *inputs, factor=6 if is_compiled() else 2, **options)


def some_theta(*batch: int, strength: float = 0.3) -> Tensor:
    return homography.exp(strength * torch.randn(*batch, 8)).to(DEVICE)


@paddings
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize(("channels", "image", "size"), [(1, (20, 28), (16, 24)), (3, (9, 30), (33, 47))], ids=str)
def test_the_kernel_is_as_accurate_as_the_reference(
    channels: int, image: tuple[int, int], size: tuple[int, int], mode: str, padding: str
) -> None:
    inputs = random(2, channels, *image), some_theta(2)
    assert_three_way(*inputs, size=size, mode=mode, padding=padding)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_dtype_is_as_accurate_as_the_reference(dtype: torch.dtype) -> None:
    assert_three_way(random(2, 2, 12, 16, dtype=dtype), some_theta(2), size=(8, 10))


@paddings
def test_views_of_an_image(padding: str) -> None:
    image, theta = random(2, 2, 12, 16), some_theta(2, 3)
    assert_three_way(image, theta, size=(6, 7), padding=padding)
    one = homography_warp(image, theta[:, 1], (6, 7), padding=padding)
    assert homography_warp(image, theta, (6, 7), padding=padding)[:, 1].equal(one)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=str)
def test_labels_by_nearest(dtype: torch.dtype) -> None:
    labels = torch.randint(20, (2, 1, 12, 16)).to(dtype).to(DEVICE)
    assert_three_way(labels, some_theta(2), size=(9, 9), mode="nearest", padding="border")


def test_the_identity_copies() -> None:
    image = random(2, 2, 9, 13)
    identity = torch.eye(3).expand(2, 3, 3).to(DEVICE)
    error = 3e-5 if is_compiled() else 1e-5
    torch.testing.assert_close(homography_warp(image, identity), image, rtol=error, atol=error)
    assert homography_warp(image, identity, mode="nearest").equal(image)


@settings(max_examples=4)
@given(
    image=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    channels=st.integers(1, 4),
    padding=st.sampled_from(("zeros", "border")),
)
def test_any_shape_is_as_accurate_as_the_reference(
    image: tuple[int, int], size: tuple[int, int], channels: int, padding: str
) -> None:
    # The errors of a few pixels scatter, so there are several images.
    assert_three_way(random(8, channels, *image), some_theta(8), size=size, padding=padding)


@ways
def test_layout_context_and_compiler_change_nothing(way: str) -> None:
    assert_same_when_called(way, homography_warp, random(2, 2, 8, 10), some_theta(2))


@paddings
@pytest.mark.parametrize(
    "theta",
    [torch.zeros(3, 3), torch.tensor([[1.0, 0, 0], [0, 1, 0], [2, 0, 0]]), -torch.eye(3), 1e30 * torch.eye(3)],
    ids=["zero", "horizon", "behind", "huge"],
)
def test_a_singular_homography_stays_finite(theta: Tensor, padding: str) -> None:
    """Points at infinity get zeros or the border's value and finite gradients, and do not touch the neighbours."""
    image, both = random(2, 1, 8, 8), torch.stack((theta, torch.eye(3))).to(DEVICE)
    image.requires_grad_()
    both.requires_grad_()
    result = homography_warp(image, both, padding=padding)
    alone = homography_warp(image[1:], both[1:], padding=padding)
    assert result.isfinite().all()
    assert result[1:].equal(alone)
    result.sum().backward()
    assert leaf_grad(image).isfinite().all()
    assert leaf_grad(both).isfinite().all()
    torch.testing.assert_close(leaf_grad(image)[1], torch.ones_like(image[1]), rtol=1e-4, atol=1e-4)


@paddings
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("entries", [(0, 0), (2, 2), slice(None)], ids=["x", "depth", "all"])
def test_nan_in_a_homography_is_seen_and_sends_no_gradient_to_the_image(entries: Any, mode: str, padding: str) -> None:
    """With padding "border", too; ``grid_sample`` shows a border there. "nearest" may read labels, so it reads 0."""
    image, theta = random(1, 1, 8, 8), some_theta(1, 2)
    theta[0, 0][entries] = torch.nan

    def run(warp: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in (image, theta)]
        warped = warp(*leaves, mode=mode, padding=padding)
        return warped.detach(), *torch.autograd.grad(warped.nansum(), leaves)

    (warped, grad_image, _), expected = run(homography_warp), run(reference.homography_warp)
    torch.testing.assert_close(warped, expected[0], equal_nan=True)
    torch.testing.assert_close(grad_image, expected[1])
    assert warped[0, 0].isnan().all() if mode == "bilinear" else not warped[0, 0].any()
    assert warped[0, 1].isfinite().all()


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_gradients_of_any_magnitude(scale: float) -> None:
    image, theta = random(1, 1, 8, 8).requires_grad_(), some_theta(1)
    small, normal = (
        torch.autograd.grad(homography_warp(image, theta), image, torch.full((1, 1, 8, 8), s, device=DEVICE))[0]
        for s in (scale, 1.0)
    )
    torch.testing.assert_close(small / scale, normal, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wanted", [0, 1], ids=["image", "theta"])
def test_the_gradient_of_one_input_alone(wanted: int) -> None:
    inputs = random(2, 2, 8, 8), some_theta(2)

    def gradient(*needed: int) -> Tensor:
        image, theta = (x.detach().requires_grad_(i in needed) for i, x in enumerate(inputs))
        return torch.autograd.grad(homography_warp(image, theta).sum(), (image, theta)[wanted])[0]

    assert gradient(wanted).equal(gradient(0, 1))


def test_theta_of_any_stride() -> None:
    image, theta = random(2, 1, 8, 8), some_theta(2)
    assert homography_warp(image, theta.mT.contiguous().mT).equal(homography_warp(image, theta))


def test_an_empty_batch() -> None:
    image, theta = random(0, 2, 8, 8).requires_grad_(), some_theta(0).requires_grad_()
    homography_warp(image, theta, (4, 5)).sum().backward()
    assert leaf_grad(image).shape == image.shape
    assert leaf_grad(theta).shape == (0, 3, 3)
