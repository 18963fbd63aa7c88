"""extract_tiles equals resizing by explicit weight matrices and cutting by slices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same_when_called, ways
from torch import Tensor

from inverseform_fast.functional import extract_tiles

# (target's size, size, tile): the same size, larger, smaller, both; ratios that rounding leaves exact.
SIZES = [
    ((8, 12), (8, 12), 4),
    ((6, 4), (12, 16), 4),
    ((24, 16), (12, 8), 4),
    ((12, 8), (8, 16), 8),
    ((3, 6), (8, 8), 8),
]
sizes = pytest.mark.parametrize(("source", "size", "tile"), SIZES, ids=str)


def some_maps(
    predicted: tuple[int, int], target: tuple[int, int], n: int = 2, void: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Draws float64 logits and a target of 0, 1 and 255."""
    g = torch.Generator().manual_seed(0)
    chance = torch.rand(n, 1, *target, generator=g)
    target_map = (chance > 0.7).to(torch.uint8).masked_fill(chance < void, 255)
    return torch.randn(n, 1, *predicted, generator=g, dtype=torch.float64), target_map


def weights(count: int, source: int) -> Tensor:
    """Returns (count, source): each source pixel's share of each result pixel (linear, clamped at the edges)."""
    positions = ((torch.arange(count).double() + 0.5) * source / count - 0.5).clamp(0, source - 1)
    return (1 - (positions[:, None] - torch.arange(source)).abs()).clamp(min=0)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return weights(size[0], maps.shape[2]) @ maps.double() @ weights(size[1], maps.shape[3]).T


def cut(maps: Tensor, tile: int) -> Tensor:
    rows, columns = range(0, maps.shape[2], tile), range(0, maps.shape[3], tile)
    return torch.stack([image[:, y : y + tile, x : x + tile] for image in maps for y in rows for x in columns])


def by_definition(predicted: Tensor, target: Tensor, size: tuple[int, int], tile: int) -> tuple[Tensor, Tensor]:
    void = resize(target == 255, size) > 1e-3
    both = resize(predicted, size), resize(target == 1, size)
    first, second = (cut(maps.masked_fill(void, 0), tile) for maps in both)
    return first, second


@sizes
def test_tiles_are_resized_and_cut_as_defined(source: tuple[int, int], size: tuple[int, int], tile: int) -> None:
    logits, target = some_maps(source, source)
    tiles = extract_tiles(logits, target, size, tile)
    assert tiles[0].shape == tiles[1].shape == (2 * size[0] // tile * (size[1] // tile), 1, tile, tile)
    torch.testing.assert_close(tiles, by_definition(logits.sigmoid(), target, size, tile))


@sizes
def test_without_activation(source: tuple[int, int], size: tuple[int, int], tile: int) -> None:
    logits, target = some_maps(source, source)
    tiles = extract_tiles(logits, target, size, tile, activation=None)
    torch.testing.assert_close(tiles, by_definition(logits, target, size, tile))


@pytest.mark.parametrize("resolution", [(2, 3), (16, 24), (5, 7), (1, 1)], ids=str)
def test_a_prediction_of_any_resolution(resolution: tuple[int, int]) -> None:
    logits, target = some_maps(resolution, (8, 12))
    tiles = extract_tiles(logits, target, (16, 8), 4)
    torch.testing.assert_close(tiles, by_definition(logits.sigmoid(), target, (16, 8), 4))


@pytest.mark.parametrize("size", [(7, 14), (21, 7), (14, 21)], ids=str)
def test_any_ratio_of_sizes_equals_interpolate_and_unfold(size: tuple[int, int]) -> None:
    logits, target = some_maps((5, 11), (10, 13), void=0)
    for tiles, maps in zip(extract_tiles(logits, target, size, 7), (logits.sigmoid(), target.double()), strict=True):
        resized = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(tiles, F.unfold(resized, 7, stride=7).mT.reshape(-1, 1, 7, 7))


def test_tiles_come_image_by_image_and_row_by_row() -> None:
    numbers = torch.arange(2 * 2 * 3.0).reshape(2, 1, 2, 3)  # of the tiles, in that order
    maps = numbers.repeat_interleave(4, 2).repeat_interleave(4, 3)
    tiles, _ = extract_tiles(maps, torch.zeros_like(maps), (8, 12), 4, activation=None)
    assert tiles.equal(torch.arange(12.0).view(12, 1, 1, 1).expand(-1, -1, 4, 4))


def test_the_default_tile_is_224() -> None:
    tiles, _ = extract_tiles(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), (224, 448))
    assert tiles.shape == (2, 1, 224, 224)
    assert (tiles == 0.5).all()


@sizes
def test_identical_maps_stay_identical(source: tuple[int, int], size: tuple[int, int], tile: int) -> None:
    _, target = some_maps(source, source)
    predicted, true = extract_tiles(target.float(), target, size, tile, activation=None)
    assert predicted.equal(true)
    assert 0 <= true.min() <= true.max() <= 1


@sizes
def test_predictions_in_void_pixels_count_for_nothing(
    source: tuple[int, int], size: tuple[int, int], tile: int
) -> None:
    logits, target = some_maps(source, source)
    other = torch.where(target == 255, 100.0, logits)
    assert extract_tiles(logits, target, size, tile)[0].equal(extract_tiles(other, target, size, tile)[0])
    all_void = extract_tiles(logits, torch.full_like(target, 255), size, tile)
    assert not any(tiles.any() for tiles in all_void)


@sizes
@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_the_gradient_agrees_with_differences(
    source: tuple[int, int], size: tuple[int, int], tile: int, activation: str | None
) -> None:
    logits, target = some_maps((3, 5), source, n=1)

    def predicted(x: Tensor) -> Tensor:
        return extract_tiles(x, target, size, tile, activation)[0]

    assert torch.autograd.gradcheck(predicted, logits.requires_grad_())


def test_void_pixels_get_no_gradient() -> None:
    logits, target = some_maps((8, 12), (8, 12))
    (gradient,) = torch.autograd.grad(extract_tiles(logits.requires_grad_(), target, (8, 12), 4)[0].sum(), logits)
    assert ((gradient == 0) == (target == 255)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("target_dtype", [torch.uint8, torch.int64, torch.float32, torch.bfloat16], ids=str)
def test_every_dtype_gives_float32_tiles(dtype: torch.dtype, target_dtype: torch.dtype) -> None:
    logits, target = some_maps((4, 6), (8, 12))
    logits = logits.to(dtype)
    tiles = extract_tiles(logits, target.to(target_dtype), (8, 12), 4)
    assert {x.dtype for x in tiles} == {torch.float32}
    expected = extract_tiles(logits.double(), target, (8, 12), 4)
    torch.testing.assert_close([x.double() for x in tiles], list(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 12), (4, 4)])
def test_an_empty_batch_gives_no_tiles(size: tuple[int, int]) -> None:
    logits = torch.zeros(0, 1, 8, 12, requires_grad=True)
    predicted, true = extract_tiles(logits, torch.zeros(0, 1, 8, 12), size, 4)
    assert predicted.shape == true.shape == (0, 1, 4, 4)
    predicted.sum().backward()


@ways
@pytest.mark.parametrize("size", [(8, 12), (16, 4)])
def test_layout_context_and_compiler_change_nothing(way: str, size: tuple[int, int]) -> None:
    logits, target = some_maps((4, 6), (8, 12))
    assert_same_when_called(way, extract_tiles, logits.float(), target, size, 4)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"predicted": torch.zeros(2, 3, 8, 8)}, ValueError, r"predicted must have shape \(N, 1, h, w\), got \(2, 3, "),
        ({"predicted": torch.zeros(2, 8, 8)}, ValueError, r"predicted must have shape \(N, 1, h, w\), got \(2, 8, 8\)"),
        ({"predicted": torch.zeros(2, 1, 8, 8).long()}, TypeError, "predicted must be floating point, got torch.int64"),
        ({"target": torch.zeros(2, 8, 8)}, ValueError, r"target must have shape \(2, 1, H, W\), got \(2, 8, 8\)"),
        ({"target": torch.zeros(2, 2, 8, 8)}, ValueError, r"target must have shape \(2, 1, H, W\), got \(2, 2, 8, 8\)"),
        ({"target": torch.zeros(3, 1, 8, 8)}, ValueError, r"target must have shape \(2, 1, H, W\), got \(3, 1, 8, 8\)"),
        ({"target": torch.zeros(2, 1, 0, 8)}, ValueError, r"target must have shape \(2, 1, H, W\), got \(2, 1, 0, 8\)"),
        ({"size": (8, 10)}, ValueError, r"size must be multiples of tile, got size \(8, 10\) and tile 4"),
        ({"size": (9, 8)}, ValueError, r"size must be multiples of tile, got size \(9, 8\) and tile 4"),
        ({"size": (8, 0)}, ValueError, r"size must be \(height, width\) in pixels, got \(8, 0\)"),
        ({"size": (8,)}, ValueError, r"size must be \(height, width\) in pixels, got \(8,\)"),
        ({"size": 8}, (TypeError, ValueError), r"size must be \(height, width\) in pixels, got 8"),
        ({"tile": 16}, ValueError, r"size must be multiples of tile, got size \(8, 8\) and tile 16"),
        ({"tile": 0}, ValueError, "tile.*got.* 0"),
        ({"tile": 4.0}, (TypeError, ValueError), "tile.*got.* 4.0"),
        ({"activation": "tanh"}, ValueError, "activation must be 'sigmoid' or None, got 'tanh'"),
        (
            {"target": torch.zeros(2, 1, 8, 8, device="meta")},
            ValueError,
            "target must be on the device of predicted, cpu",
        ),
    ],
)
def test_bad_input_is_an_error_that_names_it(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = {"predicted": torch.zeros(2, 1, 8, 8), "target": torch.zeros(2, 1, 8, 8), "size": (8, 8)}
    with pytest.raises(error, match=message):
        extract_tiles(**{"tile": 4, **good, **changed})
