"""align equals the network as modules with torch's solver in float64, in values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import tf32
import torch
from helpers import assert_same_when_called, local_correlation_by_definition, ways
from torch import Tensor, nn

import inverseform_fast as iff
from inverseform_fast import homography, reference
from inverseform_fast.functional import align, boundary_map, homography_warp
from inverseform_fast.nets import Align, InverseTransformNet
from inverseform_fast.reference.align import _bordered, equations
from inverseform_fast.scenes.street import label_maps

TILE = 32
CELLS = TILE // 8


@pytest.fixture
def weights() -> list[Tensor]:
    """Random weights that are large enough for each to matter."""
    torch.manual_seed(0)
    weights = Align(tile=TILE).requires_grad_(False).weights
    norm = slice(6, 8)
    weights[norm] = [torch.rand(16) + 0.5, torch.randn(16)]
    weights[12] = torch.randn_like(weights[12])
    weights[14] = torch.randn(8)
    return weights


def some_tiles(count: int = 2, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.rand(2, count, 1, TILE, TILE, generator=generator, dtype=torch.float64).to(dtype)
    return first, second


def by_modules(predicted: Tensor, target: Tensor, weights: list[Tensor]) -> Tensor:
    """Computes the network as a reader of the paper would write it."""
    sides = nn.Sequential(
        nn.PixelUnshuffle(4),
        nn.Conv2d(16, 10, 3, padding=1, padding_mode="replicate"), nn.SiLU(),
        nn.Conv2d(10, 24, 3, stride=2, padding=1, padding_mode="replicate"), nn.SiLU(),
        nn.Conv2d(24, 16, 1), nn.GroupNorm(4, 16, eps=0.01),
    ).double()  # fmt: skip
    measure = nn.Sequential(
        nn.Conv2d(114, 26, 1), nn.SiLU(), nn.Conv2d(26, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 5, 1)
    ).double()
    *network, prior, velocity = (weight.double() for weight in weights)
    for parameter, weight in zip((*sides.parameters(), *measure.parameters()), network, strict=True):
        parameter.data = weight
    matrix, vector = prior.exp().diag().expand(len(predicted), 8, 8), torch.zeros(len(predicted), 8).double()
    for sign, a, b in ((1, predicted, target), (-1, target, predicted)):
        a, b = sides(a.double()), sides(b.double())
        found = measure(torch.cat((local_correlation_by_definition(a, b, 3, 2), a), 1)).flatten(2)
        for cell in range(CELLS**2):
            dx, dy, xx, yx, yy = found[..., cell].unbind(1)
            zero = torch.zeros_like(dx)
            factor = torch.stack((nn.functional.softplus(xx), zero, yx, nn.functional.softplus(yy)), 1).view(-1, 2, 2)
            information, moves = factor @ factor.mT, velocity[cell].T  # W (N, 2, 2), A (2, 8)
            displacement = torch.stack((dx, dy), 1)[..., None] * 3 * 8 / (TILE / 2)
            matrix = matrix + moves.T @ information @ moves
            vector = vector + sign * (moves.T @ information @ displacement)[..., 0]
    return torch.linalg.solve(matrix, vector)


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_align_is_the_network_as_modules(weights: list[Tensor], backend: str) -> None:
    tiles = some_tiles()
    expected = by_modules(*tiles, weights)
    assert expected.abs().max() > 3e-3
    with iff.set_backend(backend):
        found = align(*tiles, weights)
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-6)


def test_the_gradient_agrees_with_differences(weights: list[Tensor]) -> None:
    tiles = [tile.requires_grad_() for tile in some_tiles(1, torch.float64)]
    weights = [weight.double() for weight in weights]
    assert torch.autograd.gradcheck(lambda a, b: align(a, b, weights), tiles, fast_mode=True)


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_weights_get_gradients_too(weights: list[Tensor], backend: str) -> None:
    tiles = some_tiles()
    trained = [weight.clone().requires_grad_() for weight in weights[:-1]]
    with iff.set_backend(backend):
        align(*tiles, [*trained, weights[-1]]).sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in trained)
    with torch.no_grad():
        torch.testing.assert_close(align(*tiles, trained + weights[-1:]), align(*tiles, weights))


@ways
def test_layout_context_and_compiler_change_nothing(way: str, weights: list[Tensor]) -> None:
    assert_same_when_called(way, lambda a, b: align(a, b, weights), *some_tiles())


def test_equations_give_back_the_homography_that_their_cells_saw(weights: list[Tensor]) -> None:
    """This holds for any weights of the cells, apart from the prior."""
    velocity = weights[-1]
    a = 0.02 * torch.randn(3, 8)
    seen = (velocity * a[:, None, :, None]).sum(2) / (3 * 16 / TILE)  # (N, cells, 2), in units of three cells
    matrix, vector = equations(torch.cat((seen.mT, torch.rand(3, 3, CELLS**2)), 1), velocity, TILE)
    torch.testing.assert_close(torch.linalg.solve(matrix, vector), a, rtol=1e-3, atol=1e-5)


def test_padding_has_the_strides_that_the_compiler_expects() -> None:
    """They are those of meta tensors, also for the gradient.

    Replicated padding of channels_last maps has others (torch 2.11), so that compiled code would raise when it runs.
    """

    def strides(device: str) -> list[tuple[int, ...]]:
        x = torch.empty(2, 10, 8, 8, device=device).contiguous(memory_format=torch.channels_last).requires_grad_()
        padded = _bordered(x)
        return [padded.stride(), torch.autograd.grad(padded, x, torch.empty_like(padded))[0].stride()]

    assert strides("cpu") == strides("meta")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"predicted": torch.zeros(2, 32, 32)}, ValueError, r"predicted must have shape .*, got \(2, 32, 32\)"),
        ({"predicted": torch.zeros(1, 1, 32, 40)}, ValueError, r"predicted must be square, .* got \(1, 1, 32, 40\)"),
        ({"predicted": torch.zeros(1, 1, 36, 36)}, ValueError, r"of a multiple of 8 pixels, got \(1, 1, 36, 36\)"),
        ({"target": torch.zeros(1, 1, 32, 40)}, ValueError, r"target must be like predicted, .*got .*\(1, 1, 32, 40\)"),
        ({"target": torch.zeros(1, 1, 32, 32).double()}, ValueError, "target must be like .* got torch.float64"),
        ({"weights": []}, ValueError, r"weights must have shapes .* got \[\]"),
        ({"weights": Align(64).weights}, ValueError, r"\(16, 8, 2\)\], got .*\(64, 8, 2\)\]"),
        ({"weights": Align(32).to("meta").weights}, ValueError, "weights must be on the device of predicted, cpu, got"),
    ],
)  # fmt: skip
def test_bad_input_is_an_error_that_names_it(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = {
        "predicted": torch.zeros(1, 1, 32, 32),
        "target": torch.zeros(1, 1, 32, 32),
        "weights": Align(32).weights,
    }
    with pytest.raises(error, match=message):
        align(**(good | changed))


def test_tensor_float_32_moves_no_estimate_that_matters(g: torch.Generator) -> None:
    """This is why the Triton kernels round their operands (tests/kernels/test_align_kernel.py shows that they do)."""
    net = InverseTransformNet.compact().requires_grad_(False)
    assert isinstance(net, Align)
    target = (boundary_map(label_maps(12, 224, 224, g))[:, None] == 1).float()
    a = homography.sample(12, 16 / 112, generator=g)
    predicted = homography_warp(target, homography.exp(a)).clamp(0.02, 0.98).requires_grad_()

    def run() -> tuple[Tensor, Tensor]:
        found = reference.align(predicted, target, net.weights) * 112  # pixels
        return found.detach(), torch.autograd.grad(found.norm(dim=1).sum(), predicted)[0].flatten(1)

    exact, slope = run()
    with tf32.convolutions_of(tf32.rounded):
        rounded, rounded_slope = run()
    with tf32.convolutions_of(tf32.cut):
        cut, _ = run()
    assert 1e-3 < (rounded - exact).norm(dim=1).max() < 0.005
    assert (rounded.norm() / exact.norm() - 1).abs() < 1e-4
    assert torch.cosine_similarity(rounded_slope, slope).min() > 0.9999
    assert (cut - exact).norm(dim=1).max() > 0.01
    assert cut.norm() / exact.norm() < 1 - 2e-4  # operands that are cut make all estimates shorter
