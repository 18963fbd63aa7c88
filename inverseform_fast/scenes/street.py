"""What stands where in a procedural street scene, and the label maps that follow from it.

A canvas is painted from analytic shapes, the farthest things first. Positions are metres in front of a pinhole camera;
image coordinates are in image heights (x to the right of the centre, y down from the centre), so the same random
numbers give the same scene at every resolution.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

CLASSES = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(len(CLASSES))
TRUNK = len(CLASSES)  # a material that looks like nothing else, of class TREE
CLASS_OF_MATERIAL = [*range(len(CLASSES)), TREE]

_DRAWS = 768  # random numbers set aside for one scene; the most crowded one takes 612
_DEPTHS = [55.0, 32.0, 20.0, 12.5, 8.0, 5.0]  # metres; the street is painted in these five slices


class Layer(NamedTuple):
    """One painted thing: what it is made of, and the plane that it lies in, for its texture."""

    material: int
    origin: tuple[float, float]  # (x, y) on the image, upright for the camera
    scale: float  # image heights per unit of u and v, the coordinates around the origin
    plane: tuple[float, float, float]  # (a, b, c): a metre there spans a + b |u| + c |v| units


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
    """The canvas of one scene: its camera, its random draws, and the layers painted so far."""

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
        self.bend = 0.05 * self.uniform(-1, 1) ** 3  # of the road
        self.density = self.uniform(0, 1)  # how crowded the street is
        self.layer = torch.zeros((height, width), dtype=torch.uint8, device=draws.device)  # index into layers
        self.layers = [Layer(SKY, (0.0, self.horizon), 1.0, _UPRIGHT)]

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._draws)

    def chance(self, probability: float) -> bool:
        return next(self._draws) < probability

    def side(self) -> int:
        return 1 if self.chance(0.5) else -1

    def window(self, x: float, y: float, scale: float, left: float, right: float, low: float, high: float) -> _Window:
        """The box [left, right] x [low, high] around (x, y), in units of ``scale`` image heights."""
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
        """Around a point on the ground, in metres: ``reach`` to each side and ``height`` up."""
        scale = self.focal / depth
        x = self.vanish + self.bend / (scale * self.eye + 0.03) + scale * lateral
        return self.window(x, self.horizon + scale * self.eye, scale, -reach, reach, 0, height)

    def paint(self, at: _Window, mask: Tensor, material: int, plane: tuple[float, float, float] = _UPRIGHT) -> None:
        self.layer[at.rows, at.cols].masked_fill_(mask, len(self.layers))
        self.layers.append(Layer(material, at.origin, at.scale, plane))

    def labels(self) -> Tensor:
        """Class ids, uint8 (height, width)."""
        classes = [CLASS_OF_MATERIAL[layer.material] for layer in self.layers]
        return torch.tensor(classes, dtype=torch.uint8, device=self.layer.device)[self.layer.long()]


def _ripples(p: Painter, t: Tensor, size: float, frequencies: tuple[float, ...]) -> Tensor:
    """A sum of sines of t, the faster the smaller."""
    total = torch.zeros_like(t)
    for frequency in frequencies:
        total += torch.sin(t * frequency + p.uniform(0, 6.3)).mul_(size * math.sqrt(frequencies[0] / frequency))
    return total


def _backdrop(p: Painter) -> None:
    """Distant skylines of trees and of roofs."""
    at = p.everywhere(0, p.horizon)
    if p.chance(0.6):
        p.paint(at, at.v < p.uniform(-0.02, 0.14) + _ripples(p, at.u, 0.02, (9, 21, 46)), TREE)
    if p.chance(0.4):
        block = torch.floor(at.u * p.uniform(6, 16) + p.uniform(0, 9))
        p.paint(at, at.v < p.uniform(0.02, 0.25) * torch.sin(block * 12.9).abs_(), BUILDING)


def _street(p: Painter) -> tuple[float, float]:
    """Ground, road and perhaps a crossing road; half the width of the road and of the whole street, in metres."""
    half = p.uniform(2.5, 6.5)
    street = half + p.uniform(0.5, 4.5)
    at = p.everywhere(p.vanish, p.horizon)
    below = -at.v
    ground = below > 0
    below.clamp_(min=1e-3)
    lateral = (at.u - p.bend / (below + 0.03)) * (p.eye / below)
    flat = (0.0, 0.0, 1 / p.eye)
    p.paint(at, ground, PAVEMENT, flat)
    if p.chance(0.4):  # a verge
        p.paint(at, ground & (lateral * p.side() > street), TREE, flat)
    p.paint(at, ground & ((lateral + p.uniform(-1, 1)).abs_() < half), ROAD, flat)
    if p.chance(0.35):
        near = p.focal * p.eye / p.uniform(8, 40)
        p.paint(at, (below < near) & (below > near * p.uniform(0.4, 0.8)), ROAD, flat)
    return half, street


def _front(p: Painter) -> None:
    """A building that faces the camera, with a flat roof or a gable, and perhaps a chimney."""
    half, height = p.uniform(3, 10), p.uniform(4, 16)
    gable = p.uniform(0.2, 1) if p.chance(0.6) else 0.0
    at = p.stand(p.uniform(35, 70), p.uniform(-30, 30), half, height + 2)
    u = at.u.abs()
    mask = (u < half) & (at.v > 0) & (at.v + gable * u < height)
    if p.chance(0.5):
        mask |= ((at.u - p.uniform(-0.6, 0.6) * half).abs_() < 0.6) & (at.v < height + 1) & (at.v > 0)
    p.paint(at, mask, BUILDING)


def _wall(p: Painter, lateral: float, near: float, far: float, height: float, depth: float, material: int) -> None:
    """A wall along the street from ``far`` to ``near``, with its end, ``depth`` metres wide, that faces the camera."""
    # Lines along the street are linear in the image heights per metre at each column of the wall.
    first, last = p.focal / far, p.focal / near
    end = last * (1 + depth / abs(lateral))
    left, right = sorted((lateral * first, lateral * end))
    above = height - p.eye  # negative for a fence that is lower than the camera
    at = p.window(p.vanish, p.horizon, 1, left, right, -p.eye * last, above * (last if above > 0 else first))
    along = at.u / lateral
    scale = along.clamp(max=last)
    mask = (along > first) & (along < end) & (at.v < scale * above) & (at.v > scale * -p.eye)
    p.paint(at, mask, material, (0.0, 1 / abs(lateral), 0.0))


def _tree(p: Painter, near: float, far: float, street: float) -> None:
    wide, tall, trunk = p.uniform(0.8, 2.8), p.uniform(0.9, 3.2), p.uniform(1.2, 2.5)
    at = p.stand(p.uniform(near, far), p.side() * street * p.uniform(0.85, 1.5), 1.6 * wide, trunk + 2.5 * tall)
    thick = max(p.uniform(0.08, 0.25), 0.6 * at.pixel)
    stem = (at.u - p.uniform(-0.15, 0.15) * (at.v - trunk)).abs_() < thick
    p.paint(at, stem & (at.v > 0) & (at.v < trunk + tall), TRUNK)
    u, v = at.u / wide, (at.v - trunk - 0.8 * tall) / tall
    edge = 1 + _ripples(p, torch.atan2(v, u), p.uniform(0.05, 0.22), (3, 5, 8, 13))
    p.paint(at, u * u + v * v < edge, TREE)


def _pole(p: Painter, near: float, far: float, half: float) -> None:
    """A pole, leaning a little, perhaps bent over like a street lamp, perhaps with a sign."""
    height = p.uniform(2.2, 8)
    at = p.stand(p.uniform(near, far), p.side() * (half + p.uniform(0.2, 1.5)), 2.5, height)
    thick = max(p.uniform(0.04, 0.13), 0.6 * at.pixel)
    centre = 0.12 * p.uniform(-1, 1) ** 3 * at.v
    if p.chance(0.4):
        centre += p.uniform(-0.5, 0.5) * (at.v - 0.75 * height).clamp_(min=0).square_()
    p.paint(at, ((at.u - centre).abs_() < thick) & (at.v > 0) & (at.v < height), POLE)
    if p.chance(0.6):
        wide, tall = p.uniform(0.2, 0.6), p.uniform(0.2, 0.6)
        v = (at.v - min(height, 3.2) + tall) / tall
        u = (at.u - centre).abs_() / wide * (1 + p.uniform(-1, 1) ** 3 * v)  # towards a triangle, either way up
        v.abs_()
        # From a square to a rhombus, by way of an octagon.
        p.paint(at, (torch.lerp(torch.maximum(u, v), u + v, p.uniform(0, 1)) < 1) & (v < 1), SIGN)


def _car(p: Painter, near: float, far: float, half: float) -> None:
    """From the back, the side or between: a rounded body, a cabin with slanted pillars, two wheels."""
    long, body, roof = p.uniform(0.85, 2.3), p.uniform(0.75, 1.1), p.uniform(1.35, 2.1)
    at = p.stand(p.uniform(near, far), p.side() * half * p.uniform(0.2, 1), long, roof)
    u, v = at.u / long, at.v
    hull = u**4 + (v * (2 / body) - 1.25) ** 4 < 1
    slant, shift = p.uniform(0.1, 0.5) / (roof - body), p.uniform(-0.12, 0.12)
    cabin = ((u - shift).abs_() < 0.85 - slant * (v - body)) & (v > 0.5 * body) & (v < roof)
    wheels = ((u.abs() - 0.65) * long).square_() + (v - 0.3).square() < 0.09
    p.paint(at, hull | cabin | wheels, CAR)


def _pedestrian(p: Painter, near: float, far: float, half: float, street: float) -> None:
    tall, wide = p.uniform(1.1, 1.95), p.uniform(0.16, 0.32)
    at = p.stand(p.uniform(near, far), p.side() * p.uniform(0.6 * half, street + 1), 0.4, tall)
    u, v = at.u.abs(), at.v / tall
    body = (u / wide).square_() + ((v - 0.44) / 0.44).square_() < 1
    stride = p.uniform(0, 0.35)
    head = u.square() + ((v - 0.92) * tall).square_() < 0.13**2
    p.paint(at, head | (body & (u > stride * (0.42 - v))), PEDESTRIAN)


def _bicyclist(p: Painter, near: float, far: float, half: float) -> None:
    turn = p.uniform(0.25, 1)  # 1: seen from the side
    at = p.stand(p.uniform(near, far), p.side() * half * p.uniform(0.3, 1.1), 0.9, 1.9)
    thin = max(0.05, 0.6 * at.pixel)
    u, v = (at.u / turn).abs(), at.v
    wheels = (((u - 0.5).square_() + (v - 0.34).square_()).sqrt_() - 0.32).abs_() < thin
    frame = (u < 0.5) & ((v + 0.5 * u - 0.59).abs_() < thin)
    rider = ((at.u - p.uniform(-0.2, 0.2) * (v - 1)) / 0.2).square_() + ((v - 1.05) / 0.5).square_() < 1
    head = at.u.square() + (v - 1.62).square_() < 0.15**2
    p.paint(at, wheels | frame | rider | head, BICYCLIST)


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
    """One random street scene of a size in pixels; every random number comes from the generator."""
    painter = Painter(height, width, torch.rand(_DRAWS, generator=generator, device=generator.device))
    _compose(painter)
    return painter


def label_maps(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Label maps of random street scenes.

    Args:
        count: number of maps.
        height, width: size in pixels; the layout of a scene is relative to the height.
        generator: source of every random number; its device is where the maps are painted.

    Returns:
        uint8 class ids (count, height, width), indices into ``CLASSES``.
    """
    maps = torch.empty((count, height, width), dtype=torch.uint8, device=generator.device)
    for out in maps:
        out.copy_(paint_street(height, width, generator).labels())
    return maps
