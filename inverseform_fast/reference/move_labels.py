"""move_labels, plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .homography_exp import homography_exp

POINTS = 7  # in each direction, along half a tile, whose flow is integrated; between them it is bilinear
STEPS = 2  # of the integration


@torch.no_grad()
def move_labels(motion: Tensor, labels: Tensor, ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    """See :func:`inverseform_fast.functional.move_labels`."""
    motion = motion.to(torch.promote_types(motion.dtype, torch.float32))
    displacement = _flow(motion, (labels.shape[1], labels.shape[2]))
    return _read_at(labels, displacement, ignore_index), displacement


def _flow(motion: Tensor, size: tuple[int, int]) -> Tensor:
    """Displacement ``(N, 2, H, W)`` in pixels."""
    n, rows, columns, _ = motion.shape
    height, width = size
    field = F.pad(motion.movedim(-1, 1) / STEPS, (1, 1, 1, 1), mode="replicate")  # from the outermost centres to edges
    y, x = torch.meshgrid(_points(height, rows, motion), _points(width, columns, motion), indexing="ij")
    start = torch.stack((x, y), -1)
    points = start.expand(n, *start.shape)
    for _ in range(STEPS):
        here = F.grid_sample(field, points, padding_mode="border", align_corners=True)
        step = homography_exp(here.movedim(1, -1))
        moved = (step[..., :2] @ points[..., None])[..., 0] + step[..., 2]
        points = moved[..., :2] / moved[..., 2:]
    dx, dy = (points - start).unbind(-1)
    displacement = torch.stack((dx * (width / 2), dy * (height / 2)), 1)
    return F.interpolate(displacement, size=size, mode="bilinear", align_corners=True)


def _points(pixels: int, tiles: int, like: Tensor) -> Tensor:
    """Coordinates in [-1, 1] from the centre of the first to that of the last pixel, along so many tiles."""
    last = 1 - 1 / pixels
    return torch.linspace(-last, last, (tiles + 1) * POINTS, dtype=like.dtype, device=like.device)


def _read_at(labels: Tensor, displacement: Tensor, void: int) -> Tensor:
    """The label of each pixel's displaced place, to the nearest pixel; ``void`` outside the image."""
    height, width = labels.shape[-2:]
    x = (displacement[:, 0] + 0.5).floor().long() + torch.arange(width, device=labels.device)
    y = (displacement[:, 1] + 0.5).floor().long() + torch.arange(height, device=labels.device)[:, None]
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    places = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    read = labels.flatten(1).gather(1, places.flatten(1)).view_as(labels)
    return read.masked_fill(outside, void)
