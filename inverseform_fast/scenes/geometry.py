"""The geometry of a painted street scene: depth, normals and the parts of its pedestrians, exact as it was painted.

The ground is a plane, walls along the street are planes with an end that faces the camera, and all else is flat and
faces the camera. Sky and skylines are infinitely far away.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .street import PEDESTRIAN, Painter

PARTS = ["background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg"]
BACKGROUND, HEAD, TORSO, UPPER_ARM, LOWER_ARM, UPPER_LEG, LOWER_LEG = range(len(PARTS))


class _Surface(NamedTuple):
    """What each pixel ``(height, width)`` shows."""

    material: Tensor
    u: Tensor  # to the right of the thing's origin, in its units
    v: Tensor  # above it
    depth: Tensor  # metres along the camera's axis
    lies: Tensor  # bool: it is the ground
    along: Tensor  # bool: it is the side of a wall along the street
    tall: Tensor  # height of a pedestrian, metres
    wide: Tensor  # half of its width, metres


def _surface(painter: Painter) -> _Surface:
    columns = [(*layer.origin, layer.scale, *layer.plane, layer.near, *layer.body) for layer in painter.layers]
    index = painter.layer.flatten().int()
    table = torch.tensor(columns, device=index.device).T.contiguous()
    planes = table.index_select(1, index).view(-1, painter.height, painter.width)
    x, y, scale, a, b, c, near, tall, wide = planes.unbind()
    u, v = painter.coordinates(x, y, 1 / scale)
    metre = scale * (a + b * u.abs() + c * v.abs())  # in image heights
    depth = painter.focal / metre
    materials = torch.tensor([layer.material for layer in painter.layers], device=index.device)
    material = materials.index_select(0, index).view(painter.height, painter.width)
    return _Surface(material, u, v, torch.maximum(depth, near), c > 0, (b > 0) & (depth > near), tall, wide)


def depth(painter: Painter) -> Tensor:
    """Returns the depth ``(height, width)`` float32 in metres, along the camera's axis; infinite for the sky."""
    return _surface(painter).depth


def normals(painter: Painter) -> Tensor:
    """Returns unit normals ``(3, height, width)`` float32 for the camera: x right, y up, z towards it."""
    surface = _surface(painter)
    upright = torch.zeros(3, painter.height, painter.width, device=surface.u.device)
    upright[0] = torch.where(surface.along, -surface.u.sign(), 0)  # towards the street
    upright[1] = surface.lies.float()
    upright[2] = (~(surface.along | surface.lies)).float()
    x, y, z = upright
    return torch.stack((painter.cos * x + painter.sin * y, painter.cos * y - painter.sin * x, z))


def parts(painter: Painter) -> Tensor:
    """Returns the parts of the pedestrians ``(height, width)`` uint8, indices into ``PARTS``."""
    surface = _surface(painter)
    shown = surface.material == PEDESTRIAN
    u, v = surface.u.abs(), surface.v / surface.tall
    is_arm = (u / (0.62 * surface.wide)).square() + ((v - 0.44) / 0.44).square() > 1  # the rim of the body's ellipse
    part = torch.where(is_arm, torch.where(v > 0.62, UPPER_ARM, LOWER_ARM), TORSO)
    part = torch.where(v < 0.42, torch.where(v < 0.22, LOWER_LEG, UPPER_LEG), part)
    part = torch.where(v > 0.82, TORSO, part)  # the shoulders
    is_head = u.square() + ((v - 0.92) * surface.tall).square() < 0.13**2
    part = torch.where(is_head, HEAD, part)
    return torch.where(shown, part, BACKGROUND).to(torch.uint8)
