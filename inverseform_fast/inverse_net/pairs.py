"""Training pairs for the network are made on the fly, from label maps alone (paper, sections 3.2 and 3.4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .. import homography
from ..functional import boundary_map, homography_warp

# A function of target tiles (N, 1, tile, tile) and a generator that returns coefficients (N, 8), in half tiles.
Transforms = Callable[[Tensor, Generator], Tensor]


class Pairs(NamedTuple):
    """Boundary tiles with ``predicted(p) = target(exp(a) p)``, apart from the damage to ``predicted``."""

    predicted: Tensor  # (N, 1, tile, tile), in [0, 1]
    target: Tensor  # (N, 1, tile, tile), 0 or 1
    a: Tensor  # (N, 8), in half tiles


def make_pairs(
    label_maps: Tensor,
    count: int,
    tile: int,
    max_displacement: float,
    generator: Generator,
    *,
    damage_every: int = 2,
    zoom: tuple[float, float] = (0.6, 2.0),
    turn: bool = True,
    transforms: Transforms | None = None,
) -> Pairs:
    """Draws views of label maps and homographies, and takes the boundaries of each view before and after the move.

    Args:
        label_maps: ``(M, H, W)`` integer class ids, 255 for void.
        count: number of pairs.
        tile: edge of the tiles in pixels.
        max_displacement: largest ``|a|``, in half tiles.
        generator: source of all randomness, on the label maps' device.
        damage_every: one in so many predicted tiles is blurred, broken, faded and noisy, as a network's predictions
            are, and the lines of all predicted tiles are thin or thick. Crisp tiles teach the most geometry. 0 makes no
            damage.
        zoom: smallest and largest size of a view, in label pixels per tile pixel.
        turn: whether the views are also turned and flipped.
        transforms: makes the homographies for target tiles, which are scaled down to ``max_displacement`` where they
            exceed it; None draws them by :func:`inverseform_fast.homography.sample`.
    """
    chosen = draw(label_maps, count, generator)
    view = random_views(chosen, tile, zoom, turn, generator)
    target = boundaries(view_labels(chosen, view, tile), 2)
    if transforms is None:
        a = homography.sample(count, max_displacement, generator=generator, device=label_maps.device)
    else:
        a = transforms(target, generator)
        a = a * (max_displacement / a.norm(dim=1, keepdim=True)).clamp(max=1)
    moved = view_labels(chosen, view @ homography.exp(a), tile)
    if not damage_every:
        return Pairs(boundaries(moved, 2), target, a)
    predicted = _random_thickness(moved)
    predicted[::damage_every] = _degrade(predicted[::damage_every], generator)
    return _partly_blank(Pairs(predicted, target, a), generator)


def _partly_blank(pairs: Pairs, generator: Generator) -> Pairs:
    """Make one prediction in 20 blank or noise, so that the network learns not to read a displacement into it."""
    predicted, target, a = pairs
    blank = torch.rand(len(a), generator=generator, device=a.device) < 0.05
    noise = torch.rand(predicted[blank].shape, generator=generator, device=a.device)
    level, grain = torch.rand(2, len(noise), 1, 1, 1, generator=generator, device=a.device)
    predicted = predicted.clone()
    predicted[blank] = level * (1 - grain * noise)
    return Pairs(predicted, target, torch.where(blank[:, None], 0, a))


def both_orders(pairs: Pairs) -> Pairs:
    """Returns ``2 N`` pairs: the given ones, and the same with their sides exchanged and ``a`` negated.

    Networks that are not antisymmetric need both: with one order, the ReLUs of the dense one die before it learns.
    """
    predicted, target, a = pairs
    return Pairs(torch.cat((predicted, target)), torch.cat((target, predicted)), torch.cat((a, -a)))


def draw(label_maps: Tensor, count: int, generator: Generator) -> Tensor:
    """Draws ``count`` of ``label_maps (M, H, W)`` with replacement; returns ``(count, 1, H, W)``."""
    return label_maps[torch.randint(len(label_maps), (count,), generator=generator, device=label_maps.device)][:, None]


def view_labels(maps: Tensor, view: Tensor, tile: int) -> Tensor:
    """Returns the labels ``(N, tile, tile)`` that ``maps (N, 1, H, W)`` show in a view.

    ``view (N, 3, 3)`` are homographies from tile to map coordinates.
    """
    return homography_warp(maps, view, (tile, tile), mode="nearest", padding="border")[:, 0]


def random_views(maps: Tensor, tile: int, zoom: tuple[float, float], turn: bool, generator: Generator) -> Tensor:
    """Draws random similarities ``(N, 3, 3)`` from tile to map coordinates.

    Args:
        maps: ``(N, 1, H, W)``; only their number, size and device matter.
        tile: edge of the tiles in pixels.
        zoom: smallest and largest size of a view, in label pixels per tile pixel.
        turn: whether the views are also turned, by up to 20 degrees and by quarter turns, and flipped.
        generator: source of all randomness, on the maps' device.
    """
    count, device = len(maps), maps.device
    height, width = maps.shape[-2:]

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator, device=device) * (high - low) + low

    # A view must not be larger than the map, or copies of the map's border would fill it. Sizes are in map pixels.
    largest = min(zoom[1], min(height, width) / tile)
    size = tile * uniform(math.log(min(zoom[0], largest)), math.log(largest)).exp()
    quarter = torch.randint(4, (count,), generator=generator, device=device) * (torch.pi / 2)
    angle = uniform(-1, 1).pow(3) * math.radians(20) + quarter * (uniform(0, 1) < 0.5)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    if not turn:
        angle, flip = torch.zeros_like(angle), torch.ones_like(flip)
    cos, sin = angle.cos() * size, angle.sin() * size
    x, y = uniform(-1, 1) * (1 - size / width), uniform(-1, 1) * (1 - size / height)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows = (
        torch.stack((cos * flip / width, -sin / width, x), 1),
        torch.stack((sin * flip / height, cos / height, y), 1),
        torch.stack((zero, zero, one), 1),
    )
    return torch.stack(rows, 1)


def boundaries(labels: Tensor, radius: int) -> Tensor:
    """Returns the boundary maps ``(N, 1, H, W)`` float32 of ``labels (N, H, W)``, 0 or 1; void is 0."""
    return (boundary_map(labels, radius) == 1).float()[:, None]


def _random_thickness(labels: Tensor) -> Tensor:
    """Returns boundaries of radius 2, 1, 2 and 3, for a quarter of the tiles each.

    The tiles are independent of each other, so their place in the batch may decide the radius.
    """
    quarters = zip(labels.tensor_split(4), (2, 1, 2, 3), strict=True)
    return torch.cat([boundaries(part, radius) for part, radius in quarters])


def _on_share(share: float, maps: Tensor, generator: Generator, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Changes a random share of ``maps (N, 1, S, S)``; the others cost no time."""
    chosen = torch.randperm(len(maps), generator=generator, device=maps.device)[: round(share * len(maps))]
    return maps.index_copy(0, chosen, change(maps[chosen]))


def _degrade(maps: Tensor, generator: Generator) -> Tensor:
    """Breaks, blurs and fades ``maps (N, 1, S, S)``, and adds ghosts of other lines and noise.

    Each kind of damage is done to a random share of the maps, with random strength.
    """

    def number(tiles: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(len(tiles), 1, 1, 1, generator=generator, device=tiles.device) * (high - low) + low

    def drop(tiles: Tensor) -> Tensor:
        return tiles * (blobs(tiles, 12, generator) > number(tiles, -1.2, -0.4))

    def fade(tiles: Tensor) -> Tensor:
        return tiles * number(tiles, 0.3, 1) * (1 + 0.3 * blobs(tiles, 6, generator)).clamp(0.2, 1.5)

    def haunt(tiles: Tensor) -> Tensor:
        return torch.maximum(tiles, tiles.roll(1, 0) * number(tiles, 0, 0.4))

    def noise(tiles: Tensor) -> Tensor:
        grain = torch.randn(tiles.shape, generator=generator, device=tiles.device) * number(tiles, 0, 0.16)
        floor = number(tiles, 0, 0.2)
        return floor + (1 - floor) * tiles + grain

    maps = _on_share(0.5, maps, generator, drop)
    maps = _on_share(0.8, maps, generator, lambda tiles: blur(tiles, number(tiles, 0.5, 3.0)))
    maps = _on_share(0.6, maps, generator, fade)
    maps = _on_share(0.15, maps, generator, haunt)
    return _on_share(0.7, maps, generator, noise).clamp(0, 1)


def blobs(maps: Tensor, cells: int, generator: Generator) -> Tensor:
    """Draws a smooth random field for each of ``maps (N, 1, S, S)``, from ``cells`` knots of unit variance per side."""
    knots = torch.randn(len(maps), 1, cells, cells, generator=generator, device=maps.device)
    return F.interpolate(knots, size=maps.shape[-2:], mode="bicubic", align_corners=False)


def blur(tiles: Tensor, sigma: Tensor) -> Tensor:
    """Blurs ``tiles (N, 1, S, S)`` by a Gaussian of ``sigma (N, 1, 1, 1)`` pixels.

    A matrix product along each axis is faster than a convolution of one channel.
    """
    place = torch.arange(tiles.shape[-1], device=tiles.device)
    weight = torch.exp(-((place[:, None] - place) / sigma).square() / 2)
    weight = weight / weight.sum(-1, keepdim=True)
    return weight @ tiles @ weight.mT
