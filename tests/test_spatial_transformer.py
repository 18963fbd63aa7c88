"""The spatial transformer is invertible and bounded for any weights, and learns to undo what was done to its images."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import leaf_grad
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import inverseform_fast as iff
from inverseform_fast import SpatialTransformer, homography


def last_bias(stn: SpatialTransformer) -> Tensor:
    last = stn.localisation[-1]
    assert isinstance(last, nn.Linear)
    return last.bias


def shaken(kind: str = "homography", channels: int = 2, scale: float = 1.0, bound: float = 0.25) -> SpatialTransformer:
    """A transformer with random weights, so that it moves something."""
    torch.manual_seed(0)
    stn = SpatialTransformer(channels, kind, bound)
    with torch.no_grad():
        for parameter in stn.localisation[-1].parameters():
            parameter.normal_(std=scale)
    return stn


def images(count: int = 3, channels: int = 2, size: tuple[int, int] = (40, 56)) -> Tensor:
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["affine", "homography"])
def test_it_starts_at_exactly_the_identity(kind: str) -> None:
    stn, x = SpatialTransformer(2, kind), images()
    assert torch.equal(stn.theta(x), torch.eye(3).expand(3, 3, 3))
    torch.testing.assert_close(stn(x), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (28, 28), (224, 224)])
def test_images_of_any_size_and_none(size: tuple[int, int]) -> None:
    stn = shaken()
    for count in (0, 1, 3):
        x = images(count, size=size)
        assert stn(x).shape == x.shape
        assert stn.algebra(x).shape == (count, 8)
        assert stn.theta(x).shape == (count, 3, 3)


def test_affine_maps_parallels_to_parallels() -> None:
    x = images()
    a, theta = (shaken("affine").algebra(x), shaken("affine").theta(x))
    assert torch.equal(a[:, 6:], torch.zeros(3, 2))
    assert (a[:, :6].abs() > 1e-4).all()
    assert torch.equal(theta[:, 2, :2], torch.zeros(3, 2))
    assert (shaken("homography").algebra(x)[:, 6:].abs() > 1e-4).all()


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e25])
@pytest.mark.parametrize("bound", [0.05, 0.5])
def test_the_displacement_is_bounded_for_any_weights(scale: float, bound: float) -> None:
    stn, x = shaken(scale=scale, bound=bound), images()
    length = stn.algebra(x).norm(dim=1)
    assert (length <= bound * (1 + 1e-6)).all()
    assert (length > 0.5 * bound).all()
    torch.testing.assert_close(torch.linalg.det(stn.theta(x)), torch.ones(3), rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_gradients_are_finite_and_reach_the_localisation(scale: float) -> None:
    stn, x = shaken(scale=scale), images().requires_grad_()
    (stn(x) * images(3)).sum().backward()
    assert x.grad is not None
    assert all(leaf_grad(p).isfinite().all() for p in stn.parameters())
    assert (leaf_grad(last_bias(stn)).abs() > 0).all()
    if scale == 1:
        assert all(leaf_grad(p).count_nonzero() for p in stn.parameters())


def test_gradients_agree_with_differences() -> None:
    stn = shaken(channels=1, scale=0.1).double()
    x = F.avg_pool2d(images(1, 1, (20, 20)).double(), 5, 1, 2)
    bias = last_bias(stn).detach().clone().requires_grad_()

    def warped(bias: Tensor) -> Tensor:
        return torch.func.functional_call(stn, {"localisation.13.bias": bias}, (x,))

    assert torch.autograd.gradcheck(warped, bias, eps=1e-7, atol=1e-5)


def test_it_warps_as_grid_sample_does() -> None:
    stn, x = shaken(), images()
    height, width = x.shape[-2:]
    xs, ys = ((torch.arange(n) * 2 + 1) / n - 1 for n in (width, height))
    points = torch.stack((xs.expand(height, width), ys[:, None].expand(height, width), torch.ones(height, width)), -1)
    moved = torch.einsum(
        "nij,hwj->nhwi", torch.matrix_exp((stn.algebra(x) @ homography.basis().flatten(1)).unflatten(1, (3, 3))), points
    )
    expected = F.grid_sample(x, moved[..., :2] / moved[..., 2:], align_corners=False)
    torch.testing.assert_close(stn(x), expected, rtol=0, atol=1e-4)
    assert (stn(x) - x).abs().max() > 0.1


def test_autocast_does_not_round_the_coordinates() -> None:
    stn, x = shaken(), images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, theta = stn.algebra(x), stn.theta(x)
    assert a.dtype == theta.dtype == torch.float32
    torch.testing.assert_close(theta, homography.exp(a))


def test_the_transformer_compiles_without_a_graph_break() -> None:
    stn, x = shaken(), images()
    compiled = torch.compile(stn, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), stn(x))


def test_it_learns_to_undo_a_shift() -> None:
    """Bars are shifted by up to 8 px of 32; behind the transformer is a template that matches the middle only."""
    generator = torch.Generator().manual_seed(0)
    template = torch.zeros(32, 32)
    template[8:24, 13:19] = 1

    def batch() -> Tensor:
        a = torch.zeros(32, 8)
        a[:, 0] = torch.rand(32, generator=generator) - 0.5
        return iff.functional.homography_warp(template.expand(32, 1, 32, 32), homography.exp(a))

    def loss(x: Tensor) -> Tensor:
        return F.mse_loss(x[:, 0], template.expand(32, 32, 32))

    torch.manual_seed(0)
    stn = SpatialTransformer(1, "affine", 0.75)
    optimizer = torch.optim.Adam(stn.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        loss(stn(batch())).backward()
        optimizer.step()
    x = batch()
    assert loss(stn(x)) < 0.2 * loss(x)


def test_it_stands_in_front_of_a_classifier() -> None:
    stn = SpatialTransformer(2)
    nn.Sequential(stn, nn.Flatten(), nn.LazyLinear(5))(images()).sum().backward()
    assert leaf_grad(last_bias(stn)).count_nonzero()


def test_saved_weights_load_to_the_same_transformer(tmp_path: Path) -> None:
    path, stn = tmp_path / "stn.safetensors", shaken("affine", bound=0.1)
    stn.save(path, note="kept")
    loaded = SpatialTransformer.from_file(path)
    assert torch.equal(loaded(images()), stn(images()))
    assert (loaded.channels, loaded.kind, loaded.max_displacement) == (2, "affine", 0.1)
    assert not loaded.training
    assert list(tmp_path.iterdir()) == [path]


def test_weights_load_strictly_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "stn.safetensors"
    with pytest.raises(FileNotFoundError, match="stn: no weight file at"):
        SpatialTransformer.from_file(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="pickled weights are refused"):
        SpatialTransformer.from_file(path)
    shaken().save(path)
    weights = load_file(path)
    del weights["localisation.0.bias"]
    header = {"channels": "2", "kind": "homography", "max_displacement": "0.25"}
    save_file(weights, path, header)
    with pytest.raises(ValueError, match=r"stn: the tensors of .* SpatialTransformer: localisation.0.bias missing"):
        SpatialTransformer.from_file(path)
    for wrong in (None, {**header, "kind": "rigid"}, {**header, "channels": "two"}):
        save_file(weights, path, wrong)
        with pytest.raises(ValueError, match="must hold channels, kind and max_displacement in its metadata, got"):
            SpatialTransformer.from_file(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "channels must be a whole number, at least 1, got 0"),
        ((1, "rigid"), "kind must be one of affine, homography, got 'rigid'"),
        ((1, "affine", 0.0), r"max_displacement must be above 0 and at most 4 \(half images\), got 0.0"),
        ((1, "affine", float("nan")), "max_displacement must be above 0"),
    ],
)
def test_a_bad_argument_is_an_error_that_names_it(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpatialTransformer(*arguments)


def test_bad_images_are_an_error_that_names_them() -> None:
    stn = SpatialTransformer(2)
    with pytest.raises(ValueError, match=r"x must have shape \(N, 2, h, w\), got \(3, 1, 40, 56\)"):
        stn(images(channels=1))
    with pytest.raises(TypeError, match=r"x must be floating point, got torch\.int64"):
        stn(images().long())
