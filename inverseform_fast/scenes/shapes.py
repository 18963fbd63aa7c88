"""Label maps of abstract shapes train networks that must not depend on streets.

They show natural outlines, cells side by side, nuclei on a ground, thin and broken lines, and straight edges with
their junctions. Each kind ranges from nearly empty to crowded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

CLASSES = 8


def label_maps(count: int, height: int, width: int, generator: Generator) -> Tensor:
    """Makes label maps of the kinds in turn: class ids ``(count, height, width)`` uint8, on the generator's device."""
    canvas = _Canvas(height, width, generator)
    maps = torch.empty(count, height, width, dtype=torch.uint8, device=generator.device)
    for index, labels in enumerate(maps):
        labels.copy_(KINDS[index % len(KINDS)](canvas))
    return maps


class _Canvas:
    """The coordinates ``x, y (height, width)`` of the pixels, in image heights, and the source of random numbers."""

    def __init__(self, height: int, width: int, generator: Generator) -> None:
        self.generator = generator
        self.height, self.width = height, width
        self.aspect = width / height
        y = (torch.arange(height, device=generator.device) + 0.5) / height
        x = (torch.arange(width, device=generator.device) + 0.5) / height
        self.x, self.y = x.expand(height, width), y[:, None].expand(height, width)

    def uniform(self, low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(size, generator=self.generator, device=self.generator.device)

    def number(self, low: float, high: float) -> float:
        """Draws a log-uniform number."""
        return math.exp(self.uniform(math.log(low), math.log(high)).item())

    def noise(self, knots: float) -> Tensor:
        """Draws a smooth field ``(height, width)`` of unit variance: ``knots`` per height, and two finer octaves."""
        field = torch.zeros(self.height, self.width, device=self.generator.device)
        for octave in (1, 2, 4):
            size = (math.ceil(knots * octave) + 3, math.ceil(knots * octave * self.aspect) + 3)
            grid = torch.randn(1, 1, *size, generator=self.generator, device=self.generator.device)
            field += F.interpolate(grid, (self.height, self.width), mode="bicubic", align_corners=False)[0, 0] / octave
        return field / math.sqrt(1 + 1 / 4 + 1 / 16)

    def places(self, count: int) -> tuple[Tensor, Tensor]:
        """Draws points on the canvas and in a margin around it; returns their x and y, ``(count, 1, 1)`` each."""
        return self.uniform(-0.1, self.aspect + 0.1, count, 1, 1), self.uniform(-0.1, 1.1, count, 1, 1)

    def classes(self, count: int) -> Tensor:
        """Draws class ids ``(count,)``."""
        return torch.randint(CLASSES, (count,), generator=self.generator, device=self.generator.device)


def _outlines(canvas: _Canvas) -> Tensor:
    """Paints nested levels of a smooth field, like coasts, animals and clouds."""
    levels = canvas.number(0.4, 2)
    return (canvas.noise(canvas.number(2, 10)) * levels + canvas.uniform(0, 1)).floor().remainder(CLASSES)


def _cells(canvas: _Canvas) -> Tensor:
    """Paints regions side by side with wavy borders, like tissue, tiles and furniture."""
    count = round(canvas.number(4, 60))
    x, y = canvas.places(count)
    wave = canvas.number(0.005, 0.15)
    wavy_x, wavy_y = (axis + wave * canvas.noise(canvas.number(2, 12)) for axis in (canvas.x, canvas.y))
    return canvas.classes(count)[((wavy_x - x).square() + (wavy_y - y).square()).argmin(0)]


def _nuclei(canvas: _Canvas) -> Tensor:
    """Paints wobbly ellipses on a ground; some of them touch."""
    count = round(canvas.number(3, 60))
    x, y = (axis - place for axis, place in zip((canvas.x, canvas.y), canvas.places(count), strict=True))
    angle = canvas.uniform(0, math.pi, count, 1, 1)
    radius = canvas.number(0.03, 0.2) * canvas.uniform(0.6, 1.6, count, 1, 1)
    along = x * angle.cos() + y * angle.sin()
    across = (y * angle.cos() - x * angle.sin()) * canvas.uniform(1, 2.5, count, 1, 1)
    turn = torch.atan2(across, along)
    wobble = 1 + canvas.uniform(0, 0.25, count, 1, 1) * torch.sin(3 * turn + canvas.uniform(0, 6.3, count, 1, 1))
    depth, nucleus = (radius * wobble - torch.hypot(along, across)).max(0)
    return torch.where(depth > 0, 1 + canvas.classes(count)[nucleus] % (CLASSES - 1), 0)


def _lines(canvas: _Canvas) -> Tensor:
    """Paints thin curves, broken here and there, over large regions, like poles, cracks, vessels and roads."""
    ground = (canvas.noise(canvas.number(1, 3)) > canvas.uniform(-1, 1)).long()
    for line in range(2, 2 + round(canvas.number(1, 4))):
        field = canvas.noise(canvas.number(1, 5))
        near = field.abs() < canvas.number(0.01, 0.08) * torch.hypot(*torch.gradient(field)).mean() * canvas.height / 4
        ground = torch.where(near & (canvas.noise(6) > -1), line % CLASSES, ground)
    return ground


def _edges(canvas: _Canvas) -> Tensor:
    """Paints half planes that cross, from one straight edge to a web of junctions."""
    count = round(canvas.number(1, 12))
    angle = canvas.uniform(0, 2 * math.pi, count, 1, 1)
    x, y = canvas.places(count)
    sides = (canvas.x - x) * angle.cos() + (canvas.y - y) * angle.sin() > 0
    steps = torch.randint(1, CLASSES, (count, 1, 1), generator=canvas.generator, device=angle.device)
    return (sides * steps).sum(0) % CLASSES


KINDS: tuple[Callable[[_Canvas], Tensor], ...] = (_outlines, _cells, _nuclei, _lines, _edges)
