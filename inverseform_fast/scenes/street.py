"""A procedural street scene is composed here, and its label map is painted.

The canvas is painted with analytic shapes, the farthest things first. Positions are in metres in front of a pinhole
camera; image coordinates are in image heights (x to the right of the centre, y down from the centre), so the same
random numbers give the same scene at every resolution.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

CLASSES = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(len(CLASSES))
TRUNK = len(CLASSES)  # a material that looks unlike TREE, but has its class
CLASS_OF_MATERIAL = [*range(len(CLASSES)), TREE]

_DRAWS = 768  # random numbers for one scene; the most crowded scene takes 612
_DEPTHS = [55.0, 32.0, 20.0, 12.5, 8.0, 5.0]  # metres from the camera; they bound the five slices of the street


class Layer(NamedTuple):
    """One painted thing: its material, the plane that it lies in, and what else its geometry needs."""

    material: int
    origin: tuple[float, float]  # (x, y) on the image, upright for the camera
    scale: float  # image heights per unit of u and v, the coordinates around the origin
    plane: tuple[float, float, float]  # (a, b, c): a metre at (u, v) spans a + b |u| + c |v| units
    near: float = 0.0  # metres: where its plane comes nearer, it faces the camera at this depth instead
    body: tuple[float, float] = (0.0, 0.0)  # height and half the width of a pedestrian, in metres


_UPRIGHT = (1.0, 0.0, 0.0)


class _Window(NamedTuple):
    """The part of the canvas that a thing may touch, with coordinates around the thing's origin."""

    origin: tuple[float, float]
    scale: float
    rows: slice
    cols: slice
    u: Tensor  # (h, w), to the right
    v: Tensor  # (h, w), up
    pixel: float  # size of a pixel in the units of u and v


class Painter:
    """The canvas of one scene: its camera, its random draws, and the layers painted so far.

    Args:
        height, width: size of the canvas in pixels.
        draws: ``(K,)`` random numbers in [0, 1), used one after the other; the canvas is on their device.

    Attributes:
        x, y: image coordinates of the columns ``(1, width)`` and the rows ``(height, 1)``.
        layers: what has been painted, the farthest first.
        layer: ``(height, width)`` uint8, the index into ``layers`` of what each pixel shows.
    """

    def __init__(self, height: int, width: int, draws: Tensor) -> None:
        self._draws = iter(draws.tolist())
        self.height, self.width = height, width
        self.aspect = width / height
        roll = 0.12 * self.uniform(-1, 1) ** 3
        self.cos, self.sin = math.cos(roll), math.sin(roll)
        self.x = ((torch.arange(width, device=draws.device) + 0.5) / height - self.aspect / 2)[None, :]
        self.y = ((torch.arange(height, device=draws.device) + 0.5) / height - 0.5)[:, None]
        self.horizon = self.uniform(0.3, 0.6) - 0.5
        self.vanish = self.uniform(-0.3, 0.3) * self.aspect
        self.focal = self.uniform(0.8, 1.4)
        self.eye = self.uniform(1.2, 2.4)  # height of the camera, metres
        self.bend = 0.05 * self.uniform(-1, 1) ** 3  # curvature of the road
        self.density = self.uniform(0, 1)  # how crowded the street is
        self.layer = torch.zeros((height, width), dtype=torch.uint8, device=draws.device)
        self.layers = [Layer(SKY, (0.0, self.horizon), 1.0, _UPRIGHT, near=math.inf)]

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._draws)

    def chance(self, probability: float) -> bool:
        return next(self._draws) < probability

    def side(self) -> int:
        return 1 if self.chance(0.5) else -1

    def window(self, x: float, y: float, scale: float, left: float, right: float, low: float, high: float) -> _Window:
        """The pixels that the box [left, right] x [low, high] may touch.

        The box is relative to the point (x, y) of the image, and in units of ``scale`` image heights.
        """
        # The camera rolls about the centre of the image: x right and y down from there.
        corners = [(x + scale * u, y - scale * v) for u in (left, right) for v in (low, high)]
        across = [(self.cos * cx - self.sin * cy + self.aspect / 2) * self.height for cx, cy in corners]
        down = [(self.sin * cx + self.cos * cy + 0.5) * self.height for cx, cy in corners]
        rows = slice(max(0, math.floor(min(down))), max(0, math.ceil(max(down))))
        cols = slice(max(0, math.floor(min(across))), max(0, math.ceil(max(across))))
        image_x, image_y = self.x[:, cols], self.y[rows]
        u = (image_x * (self.cos / scale) - x / scale) + image_y * (self.sin / scale)
        v = image_x * (self.sin / scale) + (y / scale - image_y * (self.cos / scale))
        return _Window((x, y), scale, rows, cols, u, v, 1 / (self.height * scale))

    def everywhere(self, x: float, y: float) -> _Window:
        """The whole canvas, in image heights relative to (x, y)."""
        far = 2 * (1 + self.aspect)
        return self.window(x, y, 1, -far, far, -far, far)

    def stand(self, depth: float, lateral: float, reach: float, height: float) -> _Window:
        """A window for what stands on the ground: ``reach`` metres to each side of a point, and ``height`` upwards."""
        scale = self.focal / depth
        x = self.vanish + self.bend / (scale * self.eye + 0.03) + scale * lateral
        return self.window(x, self.horizon + scale * self.eye, scale, -reach, reach, 0, height)

    def paint(
        self,
        box: _Window,
        mask: Tensor,
        material: int,
        plane: tuple[float, float, float] = _UPRIGHT,
        near: float = 0.0,
        body: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Paint ``mask (h, w)``, the pixels of ``box`` that the thing covers, over what was there."""
        self.layer[box.rows, box.cols].masked_fill_(mask, len(self.layers))
        self.layers.append(Layer(material, box.origin, box.scale, plane, near, body))

    def coordinates(self, x: Tensor, y: Tensor, per_unit: Tensor) -> tuple[Tensor, Tensor]:
        """How far right of and above the point (x, y) of the image each pixel lies, in units of ``1 / per_unit``."""
        u = (self.x * self.cos + self.y * self.sin - x) * per_unit
        v = (y + self.x * self.sin - self.y * self.cos) * per_unit
        return u, v

    def labels(self) -> Tensor:
        """Returns the class ids ``(height, width)`` uint8."""
        classes = [CLASS_OF_MATERIAL[layer.material] for layer in self.layers]
        return torch.tensor(classes, dtype=torch.uint8, device=self.layer.device)[self.layer.long()]


def _ripples(p: Painter, t: Tensor, size: float, frequencies: tuple[float, ...]) -> Tensor:
    """Sums sines of ``t``; a sine of a higher frequency has a smaller amplitude."""
    total = torch.zeros_like(t)
    for frequency in frequencies:
        total += torch.sin(t * frequency + p.uniform(0, 6.3)).mul_(size * math.sqrt(frequencies[0] / frequency))
    return total


def _backdrop(p: Painter) -> None:
    """Paint skylines of trees and of roofs; they are so distant that they have no depth, as the sky."""
    box = p.everywhere(0, p.horizon)
    if p.chance(0.6):
        p.paint(box, box.v < p.uniform(-0.02, 0.14) + _ripples(p, box.u, 0.02, (9, 21, 46)), TREE, near=math.inf)
    if p.chance(0.4):
        block = torch.floor(box.u * p.uniform(6, 16) + p.uniform(0, 9))
        p.paint(box, box.v < p.uniform(0.02, 0.25) * torch.sin(block * 12.9).abs_(), BUILDING, near=math.inf)


def _street(p: Painter) -> tuple[float, float]:
    """Paint the ground, the road and perhaps a crossing road.

    Returns:
        Half the width of the road and half the width of the whole street, in metres.
    """
    half = p.uniform(2.5, 6.5)
    street = half + p.uniform(0.5, 4.5)
    box = p.everywhere(p.vanish, p.horizon)
    below = -box.v
    ground = below > 0
    below.clamp_(min=1e-3)
    lateral = (box.u - p.bend / (below + 0.03)) * (p.eye / below)
    flat = (0.0, 0.0, 1 / p.eye)
    p.paint(box, ground, PAVEMENT, flat)
    if p.chance(0.4):  # a verge
        p.paint(box, ground & (lateral * p.side() > street), TREE, flat)
    p.paint(box, ground & ((lateral + p.uniform(-1, 1)).abs_() < half), ROAD, flat)
    if p.chance(0.35):
        near = p.focal * p.eye / p.uniform(8, 40)
        p.paint(box, (below < near) & (below > near * p.uniform(0.4, 0.8)), ROAD, flat)
    return half, street


def _front(p: Painter) -> None:
    """Paint a building that faces the camera, with a flat roof or a gable, and perhaps a chimney."""
    half, height = p.uniform(3, 10), p.uniform(4, 16)
    gable = p.uniform(0.2, 1) if p.chance(0.6) else 0.0
    box = p.stand(p.uniform(35, 70), p.uniform(-30, 30), half, height + 2)
    u = box.u.abs()
    mask = (u < half) & (box.v > 0) & (box.v + gable * u < height)
    if p.chance(0.5):
        mask |= ((box.u - p.uniform(-0.6, 0.6) * half).abs_() < 0.6) & (box.v < height + 1) & (box.v > 0)
    p.paint(box, mask, BUILDING)


def _wall(p: Painter, lateral: float, near: float, far: float, height: float, depth: float, material: int) -> None:
    """Paint a wall along the street, from ``far`` to ``near``; its end, ``depth`` metres wide, faces the camera."""
    # A column u of the image shows the wall at u / lateral image heights per metre, so its edges are straight lines.
    first, last = p.focal / far, p.focal / near
    end = last * (1 + depth / abs(lateral))
    left, right = sorted((lateral * first, lateral * end))
    above = height - p.eye  # negative for a fence that is lower than the camera
    box = p.window(p.vanish, p.horizon, 1, left, right, -p.eye * last, above * (last if above > 0 else first))
    along = box.u / lateral
    scale = along.clamp(max=last)
    mask = (along > first) & (along < end) & (box.v < scale * above) & (box.v > scale * -p.eye)
    p.paint(box, mask, material, (0.0, 1 / abs(lateral), 0.0), near)


def _tree(p: Painter, near: float, far: float, street: float) -> None:
    wide, tall, trunk = p.uniform(0.8, 2.8), p.uniform(0.9, 3.2), p.uniform(1.2, 2.5)
    box = p.stand(p.uniform(near, far), p.side() * street * p.uniform(0.85, 1.5), 1.6 * wide, trunk + 2.5 * tall)
    thick = max(p.uniform(0.08, 0.25), 0.6 * box.pixel)
    stem = (box.u - p.uniform(-0.15, 0.15) * (box.v - trunk)).abs_() < thick
    p.paint(box, stem & (box.v > 0) & (box.v < trunk + tall), TRUNK)
    u, v = box.u / wide, (box.v - trunk - 0.8 * tall) / tall
    edge = 1 + _ripples(p, torch.atan2(v, u), p.uniform(0.05, 0.22), (3, 5, 8, 13))
    p.paint(box, u * u + v * v < edge, TREE)


def _pole(p: Painter, near: float, far: float, half: float) -> None:
    """Paint a pole that leans a little; it may be bent over like a street lamp, and may bear a sign."""
    height = p.uniform(2.2, 8)
    box = p.stand(p.uniform(near, far), p.side() * (half + p.uniform(0.2, 1.5)), 2.5, height)
    thick = max(p.uniform(0.04, 0.13), 0.6 * box.pixel)
    center = 0.12 * p.uniform(-1, 1) ** 3 * box.v
    if p.chance(0.4):
        center += p.uniform(-0.5, 0.5) * (box.v - 0.75 * height).clamp_(min=0).square_()
    p.paint(box, ((box.u - center).abs_() < thick) & (box.v > 0) & (box.v < height), POLE)
    if p.chance(0.6):
        wide, tall = p.uniform(0.2, 0.6), p.uniform(0.2, 0.6)
        v = (box.v - min(height, 3.2) + tall) / tall
        u = (box.u - center).abs_() / wide * (1 + p.uniform(-1, 1) ** 3 * v)  # towards a triangle, either way up
        v.abs_()
        # From a square to a rhombus, by way of an octagon.
        p.paint(box, (torch.lerp(torch.maximum(u, v), u + v, p.uniform(0, 1)) < 1) & (v < 1), SIGN)


def _car(p: Painter, near: float, far: float, half: float) -> None:
    """Paint a car seen from the back, the side or between: a rounded body, a cabin with slanted pillars, two wheels."""
    long, body, roof = p.uniform(0.85, 2.3), p.uniform(0.75, 1.1), p.uniform(1.35, 2.1)
    box = p.stand(p.uniform(near, far), p.side() * half * p.uniform(0.2, 1), long, roof)
    u, v = box.u / long, box.v
    hull = u**4 + (v * (2 / body) - 1.25) ** 4 < 1
    slant, shift = p.uniform(0.1, 0.5) / (roof - body), p.uniform(-0.12, 0.12)
    cabin = ((u - shift).abs_() < 0.85 - slant * (v - body)) & (v > 0.5 * body) & (v < roof)
    wheels = ((u.abs() - 0.65) * long).square_() + (v - 0.3).square() < 0.09
    p.paint(box, hull | cabin | wheels, CAR)


def _pedestrian(p: Painter, near: float, far: float, half: float, street: float) -> None:
    tall, wide = p.uniform(1.1, 1.95), p.uniform(0.16, 0.32)
    box = p.stand(p.uniform(near, far), p.side() * p.uniform(0.6 * half, street + 1), 0.4, tall)
    u, v = box.u.abs(), box.v / tall
    body = (u / wide).square_() + ((v - 0.44) / 0.44).square_() < 1
    stride = p.uniform(0, 0.35)
    head = u.square() + ((v - 0.92) * tall).square_() < 0.13**2
    p.paint(box, head | (body & (u > stride * (0.42 - v))), PEDESTRIAN, body=(tall, wide))


def _bicyclist(p: Painter, near: float, far: float, half: float) -> None:
    turn = p.uniform(0.25, 1)  # 1: seen from the side
    box = p.stand(p.uniform(near, far), p.side() * half * p.uniform(0.3, 1.1), 0.9, 1.9)
    thin = max(0.05, 0.6 * box.pixel)
    u, v = (box.u / turn).abs(), box.v
    wheels = (((u - 0.5).square_() + (v - 0.34).square_()).sqrt_() - 0.32).abs_() < thin
    frame = (u < 0.5) & ((v + 0.5 * u - 0.59).abs_() < thin)
    rider = ((box.u - p.uniform(-0.2, 0.2) * (v - 1)) / 0.2).square_() + ((v - 1.05) / 0.5).square_() < 1
    head = box.u.square() + (v - 1.62).square_() < 0.15**2
    p.paint(box, wheels | frame | rider | head, BICYCLIST)


def _compose(p: Painter) -> None:
    """Paint one scene, the farthest things first."""
    _backdrop(p)
    half, street = _street(p)
    for _ in range(3):
        if p.chance(0.7):
            _front(p)
    built = [side * (street + p.uniform(0, 2)) for side in (-1, 1) if p.chance(0.75)]
    railed, rail = p.chance(0.6), p.side() * street
    for far, near in pairwise(_DEPTHS):
        for lateral in built:
            if p.chance(0.85):
                gap = p.uniform(0.8, 1.05)
                _wall(p, lateral, near, far * gap, p.uniform(4, 16), p.uniform(2, 10), BUILDING)
        if railed and p.chance(0.8):
            _wall(p, rail, near * p.uniform(0.9, 1.2), far, p.uniform(0.6, 2), 0.1, FENCE)
        for _ in range(2):
            if p.chance(0.15 + 0.45 * p.density):
                _tree(p, near, far, street)
            if p.chance(0.15 + 0.45 * p.density):
                _pole(p, near, far, half)
            if p.chance(0.15 + 0.4 * p.density):
                _car(p, near, far, half)
            if p.chance(0.05 + 0.3 * p.density):
                _bicyclist(p, near, far, half)
            if p.chance(0.15 + 0.45 * p.density):
                _pedestrian(p, near, far, half, street)


def paint_street(height: int, width: int, generator: torch.Generator) -> Painter:
    """Paint one random street scene of ``height`` x ``width`` pixels; every random number comes from the generator."""
    painter = Painter(height, width, torch.rand(_DRAWS, generator=generator, device=generator.device))
    _compose(painter)
    return painter


def label_maps(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Paint label maps of random street scenes.

    Args:
        count: number of maps.
        height, width: size in pixels; the layout of a scene is relative to the height.
        generator: source of every random number; its device is where the maps are painted.

    Returns:
        ``(count, height, width)`` uint8 class ids, indices into ``CLASSES``.
    """
    maps = torch.empty((count, height, width), dtype=torch.uint8, device=generator.device)
    for out in maps:
        out.copy_(paint_street(height, width, generator).labels())
    return maps
