"""The picture of a procedural street scene gets colours, textures, light, shadow, blur and noise."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .street import PAVEMENT, ROAD, Painter

_ALWAYS = -2.0  # a threshold that every sine passes


class _Look(NamedTuple):
    """How a material looks.

    A pattern is drawn where two sines are both above their thresholds: one along the ground or the wall, and one
    upwards or away. Periods are in metres, colours and the pattern's contrast in 1/255.
    """

    dark: tuple[int, int, int]  # darkest RGB colour
    light: tuple[int, int, int]  # lightest RGB colour
    rough: float  # relative contrast of the noise on it
    across: tuple[float, float] = (1.0, _ALWAYS)  # period and threshold of the first sine
    up: tuple[float, float] = (1.0, _ALWAYS)  # period and threshold of the second sine
    pattern: tuple[int, int] = (0, 0)  # lowest and highest contrast of the pattern


_LOOKS = [  # in the order of the materials, whose colours differ until light, shadow and noise make them overlap
    _Look((135, 165, 200), (225, 235, 255), 0.03),  # sky
    _Look((115, 75, 60), (215, 190, 165), 0.10, (3.0, 0.0), (3.2, 0.1), (-60, 30)),  # building: windows
    _Look((25, 28, 32), (75, 78, 82), 0.05),  # pole
    _Look((60, 60, 66), (105, 105, 112), 0.06, (3.6, 0.97), (9.0, 0.0), (60, 120)),  # road: lane marks
    _Look((140, 125, 108), (190, 175, 158), 0.08, (1.3, 0.92), (1.3, _ALWAYS), (-30, 0)),  # pavement: slabs
    _Look((25, 55, 15), (95, 135, 65), 0.40),  # tree
    _Look((190, 25, 25), (255, 190, 50), 0.05, (0.9, 0.5), (0.9, _ALWAYS), (-60, 120)),  # sign
    _Look((95, 55, 30), (150, 100, 60), 0.10, (0.5, 0.2), (1.0, _ALWAYS), (-60, -20)),  # fence: slats
    _Look((15, 15, 20), (215, 215, 235), 0.05, (9.0, _ALWAYS), (4.0, 0.1), (-130, -30)),  # car: glass
    _Look((40, 20, 70), (130, 70, 210), 0.10, (1.0, _ALWAYS), (3.6, 0.1), (-40, 60)),  # pedestrian: jacket
    _Look((180, 80, 10), (255, 150, 70), 0.10, (1.0, _ALWAYS), (3.2, 0.1), (-40, 60)),  # bicyclist
    _Look((45, 35, 25), (100, 85, 65), 0.20),  # trunk
]


def _textures(painter: Painter, draws: Tensor) -> Tensor:
    """Draws what each layer looks like; returns ``(17, layers)``.

    The rows are: colour (3), origin (2), 1 / scale, plane (3), frequency, phase and threshold of either sine (6), the
    contrast of the pattern and that of the noise. ``draws`` are random numbers ``(>= layers, 7)`` in [0, 1).
    """
    columns = []
    for layer, (tint, red, green, blue, phase1, phase2, contrast) in zip(painter.layers, draws.tolist(), strict=False):
        look = _LOOKS[layer.material]
        for low, high, hue in zip(look.dark, look.light, (red, green, blue), strict=True):
            columns.append((low + (high - low) * (0.65 * tint + 0.35 * hue)) / 255)
        columns += [*layer.origin, 1 / layer.scale, *layer.plane]
        across, up = math.tau / look.across[0], math.tau / look.up[0]
        # What stands upright has its pattern at a height above the ground: glass from 0.9 metres on.
        lies = layer.plane[2] > 0
        columns += [across, math.tau * phase1, look.across[1], up, math.tau * phase2 if lies else -0.9 * up, look.up[1]]
        low, high = look.pattern
        columns += [(low + (high - low) * contrast) / 255, look.rough]
    return torch.tensor(columns, device=draws.device).view(len(painter.layers), -1).T.contiguous()


def band_noise(size: tuple[int, int], cells: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draws a sum of smooth noises ``(height, width)``, of about unit variance.

    Args:
        size: height and width in pixels.
        cells: number of knots per image height, one number for each noise.
        generator: source of randomness.
    """
    height, width = size
    total = torch.zeros((height, width), device=generator.device)
    for count in cells:
        shape = (1, 1, count + 1, math.ceil(count * width / height) + 1)
        coarse = torch.randn(shape, generator=generator, device=generator.device)
        total += F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)[0, 0]
    return total * (1.5 / len(cells) ** 0.5)


def _blur(image: Tensor) -> Tensor:
    """Blurs ``image (3, height, width)`` by the 3x3 binomial filter."""
    image = F.pad(image, (1, 1, 1, 1), mode="replicate")
    image = image[:, :-2] + 2 * image[:, 1:-1] + image[:, 2:]
    return (image[..., :-2] + 2 * image[..., 1:-1] + image[..., 2:]) / 16


def _uniform(generator: torch.Generator, low: float, high: float, count: int = 1) -> Tensor:
    return torch.rand(count, generator=generator, device=generator.device) * (high - low) + low


def _expose(image: Tensor, painter: Painter, generator: torch.Generator) -> Tensor:
    """Adds to ``image (3, height, width)`` what a camera adds: uneven light, a colour cast, blur and noise."""
    light = _uniform(generator, 0.8, 1.2)
    light = light + _uniform(generator, -0.2, 0.2) * painter.x + _uniform(generator, -0.2, 0.2) * painter.y
    image = image * light * _uniform(generator, 0.93, 1.07, 3)[:, None, None]
    image = torch.lerp(image, _blur(image), _uniform(generator, 0.2, 1))
    noise = torch.randn(image.shape, generator=generator, device=generator.device)
    return image + noise * _uniform(generator, 0.008, 0.025)


def _shadow(painter: Painter, materials: Tensor, across: Tensor, away: Tensor, generator: torch.Generator) -> Tensor:
    """Finds the pixels ``(height, width)`` of the street that lie in the shadow of houses or of things on the street.

    Args:
        materials: ``(height, width)``, the material that each pixel shows.
        across, away: ``(height, width)``, the pixel's place on the ground to the right and ahead, in metres.
    """
    street = (materials == ROAD) | (materials == PAVEMENT)
    sun = 1 if _uniform(generator, 0, 1) < 0.5 else -1
    eaves = _uniform(generator, 0, 3) * torch.sin(away * 0.4 + _uniform(generator, 0, 6.3)).sign_()
    houses = across * sun > _uniform(generator, -2, 8) + eaves
    aside = -sun * int(_uniform(generator, 0.02, 0.08) * painter.height)
    things = (materials > PAVEMENT).roll((int(0.02 * painter.height) + 1, aside), (0, 1))
    return street & (houses | things)


def render(painter: Painter, generator: torch.Generator) -> Tensor:
    """Makes the picture ``(3, height, width)`` uint8 RGB of a painted scene."""
    height, width = painter.height, painter.width
    index = painter.layer.flatten().int()
    textures = _textures(painter, torch.rand((256, 7), generator=generator, device=generator.device))
    planes = textures.index_select(1, index).view(-1, height, width)  # several times faster than indexing
    x, y, per_unit, a, b, c, k1, phase1, over1, k2, phase2, over2, contrast, rough = planes[3:].unbind()
    # How far across, up and away each pixel is on the plane that it shows, in metres.
    u, v = painter.coordinates(x, y, per_unit)
    metre = (a + b * u.abs() + c * v.abs()).clamp_(min=1e-3)
    u, v, away = u / metre, v / metre, painter.focal / metre
    first, second = torch.where(b > 0, away, u), torch.where(c > 0, away, v)
    pattern = (torch.sin(k1 * first + phase1) > over1) & (torch.sin(k2 * second + phase2) > over2)
    image = planes[:3] + contrast * pattern
    image *= 1 + rough * band_noise((height, width), (8, 24, 64), generator)
    materials = torch.tensor([layer.material for layer in painter.layers], dtype=torch.uint8, device=index.device)
    shadow = _shadow(painter, materials.index_select(0, index).view(height, width), u, away, generator)
    image *= 1 - _uniform(generator, 0.2, 0.5) * shadow
    return (_expose(image, painter, generator) * 255).round_().clamp_(0, 255).to(torch.uint8)
