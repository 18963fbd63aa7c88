"""The kernels of align are as accurate as the reference, and exact where the network must be, for any weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tf32
import torch
from helpers import assert_same_when_called, leaf_grad, results_and_gradients, ways
from three_way import DEVICE, FLOATS, assert_three_way
from torch import Tensor

from inverseform_fast import reference
from inverseform_fast.functional import align
from inverseform_fast.nets import Align, InverseTransformNet
from inverseform_fast.ops.backend import INTERPRETED

pytestmark = pytest.mark.kernel

# Batch, tile, weights, tiles; a tile of 96 has more cells than a program. Rounding scatters from tile to tile, so there
# are many tiles where they cost little.
MANY = 1 if INTERPRETED else 8
CASES = [
    (3, 8, "random", "noise"), (1, 16, "shipped", "lines"), (1, 24, "random", "lines"), (1, 24, "shipped", "noise"),
    (1, 40, "shipped", "lines"), (1, 96, "shipped", "lines"),
]  # fmt: skip


def weights(tile: int, kind: str = "shipped") -> list[Tensor]:
    """The weights of training's first step, with a random last layer; or the package's."""
    net = Align(tile)
    if kind == "shipped":
        net.load_state_dict(InverseTransformNet.compact().state_dict())
    else:
        last = net.measure["4"]
        assert isinstance(last, torch.nn.Conv2d)
        last.weight.data *= 20
    return [weight.detach().to(DEVICE) for weight in net.weights]


def pair(n: int, tile: int, kind: str = "noise") -> tuple[Tensor, Tensor]:
    """Draws probabilities: of anything, or of two lines that moved by a pixel, 0 elsewhere."""
    tiles = torch.rand(2, n, 1, tile, tile)
    if kind == "lines":
        corner = torch.randint(1, tile - 1, (n, 2))
        for side in range(2):
            line = torch.zeros(n, 1, tile, tile, dtype=torch.bool)
            for i, (y, x) in enumerate((corner + side).tolist()):
                line[i, :, y] = line[i, :, :, x] = True
            tiles[side] *= line
    predicted, target = tiles.to(DEVICE)
    return predicted, target


@pytest.mark.parametrize(("n", "tile", "kind", "content"), CASES, ids=str)
def test_the_kernel_is_as_accurate_as_the_reference(n: int, tile: int, kind: str, content: str) -> None:
    # Untrained weights measure two vectors that nearly cancel: one tile in ten errs twice as much as in the reference.
    factor = 4 if kind == "random" else 2
    assert_three_way("align", *pair(MANY * n, tile, content), factor=factor, weights=weights(tile, kind))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_dtype_is_as_accurate_as_the_reference(dtype: torch.dtype) -> None:
    """The weights also may have any dtype, which need not be the tiles'."""
    tiles = (tile.to(dtype) for tile in pair(MANY, 16))
    assert_three_way("align", *tiles, weights=[weight.to(FLOATS[-1]) for weight in weights(16)])


@pytest.mark.parametrize("wanted", [(True, False), (False, True)], ids=str)
def test_one_of_the_gradients(wanted: tuple[bool, bool]) -> None:
    tiles, w = pair(1, 16), weights(16)
    both = results_and_gradients(align, *tiles, weights=w)[1:]
    for tile, want in zip(tiles, wanted, strict=True):
        tile.requires_grad_(want)
    result = align(*tiles, w)
    (result * torch.linspace(-1, 1, result.numel(), device=result.device).view(result.shape)).sum().backward()
    for tile, want, expected in zip(tiles, wanted, both, strict=True):
        assert torch.equal(leaf_grad(tile), expected) if want else tile.grad is None


def test_identical_tiles_give_exactly_zero() -> None:
    tiles = pair(2, 24)[0]
    assert not align(tiles, tiles.clone(), weights(24, "random")).any()


def test_swapped_tiles_give_exactly_the_opposite() -> None:
    (first, second), w = pair(2, 24), weights(24, "random")
    found = align(first, second, w)
    assert found.any()
    assert torch.equal(align(second, first, w), -found)


def test_the_place_in_the_batch_changes_no_bit() -> None:
    tiles, w = pair(3, 16), weights(16)
    incoming = torch.randn(3, 8, device=DEVICE)

    def run(these: slice) -> tuple[Tensor, ...]:
        inputs = first, second = [tile[these].detach().requires_grad_() for tile in tiles]
        found = align(first, second, w)
        return found.detach(), *torch.autograd.grad(found, inputs, incoming[these])

    together = run(slice(0, 3))
    for i in (0, 2):
        for all_rows, row in zip(together, run(slice(i, i + 1)), strict=True):
            assert torch.equal(all_rows[i : i + 1], row)


def test_nan_stays_in_its_tile() -> None:
    tiles, w = pair(2, 16), weights(16)
    expected = results_and_gradients(align, *tiles, weights=w)
    tiles[1][1, 0, 3, 5] = float("nan")
    found = results_and_gradients(align, *tiles, weights=w)
    for ours, clean in zip(found, expected, strict=True):
        assert torch.equal(ours[0], clean[0])
        assert ours[1].isnan().all()


@pytest.mark.triton
def test_products_in_tf32_round_their_operands() -> None:
    """They are those of a reference whose convolutions round theirs, and not of one that cuts them, as GPUs do."""
    tiles, w = pair(2, 24, "lines"), weights(24)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        found = results_and_gradients(align, *tiles, weights=w)

    def errors(change: Callable[[Tensor], Tensor]) -> list[float]:
        with tf32.convolutions_of(change):
            expected = results_and_gradients(reference.align, *tiles, weights=w)
        return [((ours - theirs).norm() / theirs.norm()).item() for ours, theirs in zip(found, expected, strict=True)]

    estimate, *gradients = errors(tf32.rounded)
    assert estimate < 2e-4
    assert max(gradients) < 1e-3  # at a tile's edge the kernels round a sum of what the reference rounds
    assert min(errors(tf32.cut)) > 4e-3


@ways
def test_layout_context_and_compiler_change_nothing(way: str) -> None:
    assert_same_when_called(way, align, *pair(1, 16), weights=weights(16))


def test_weights_in_any_layout() -> None:
    tiles, w = pair(1, 16), weights(16)
    strided = [weight.movedim(0, -1).contiguous().movedim(-1, 0) for weight in w]
    assert any(not weight.is_contiguous() for weight in strided)
    assert torch.equal(align(*tiles, strided), align(*tiles, w))


def test_an_empty_batch() -> None:
    first, second = (tile.requires_grad_() for tile in pair(0, 16))
    found = align(first, second, weights(16))
    assert found.shape == (0, 8)
    found.sum().backward()
    assert leaf_grad(first).shape == leaf_grad(second).shape == first.shape


def test_weights_that_train_get_gradients() -> None:
    tiles, (*trained, velocity) = pair(1, 8), weights(8)
    w = [*(weight.requires_grad_() for weight in trained), velocity]
    found = align(*tiles, w)
    torch.testing.assert_close(found, reference.align(*tiles, w), rtol=1e-4, atol=1e-6)
    gradients = torch.autograd.grad(found.square().sum(), trained)
    assert all(gradient.any() for gradient in gradients)


@pytest.mark.triton
def test_a_tile_too_long_is_refused() -> None:
    long = torch.zeros(1, device=DEVICE).expand(1, 1, 32008, 32008)
    w = [*weights(8)[:-1], torch.zeros(1, device=DEVICE).expand(4001**2, 8, 2)]
    with pytest.raises(ValueError, match="height and width must be at most 32000 pixels"):
        align(long, long, w)
