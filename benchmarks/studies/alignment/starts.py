"""A descent begins from a start: a tile of true boundaries that a random homography has displaced."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from inverseform_fast import homography
from inverseform_fast.functional import boundary_map, homography_warp

TILE, MARGIN = 224, 48  # pixels; a displaced tile shows what lies within the margin around the true one
HALF, SQUARE = TILE / 2, TILE + 2 * MARGIN


class Truth(NamedTuple):
    """A true boundary ``(N, 1, TILE, TILE)`` of 0 and 1, and its :func:`distances`."""

    boundary: Tensor
    outside: Tensor
    inside: Tensor


class Starts(NamedTuple):
    squares: Tensor  # (N, 1, SQUARE, SQUARE): the boundary in the tile and in the margin around it
    truth: Truth
    a: Tensor  # (N, 8), in half tiles


def make_starts(label_maps: Tensor, displacements: Tensor, generator: Generator) -> Starts:
    """Cut tiles from random places of label maps, and displace them at random by ``displacements (N,)`` in pixels."""
    squares: list[Tensor] = []
    while len(squares) < len(displacements):
        labels = label_maps[torch.randint(len(label_maps), (1,), generator=generator)]
        y, x = (int(torch.randint(edge - SQUARE + 1, (), generator=generator)) for edge in labels.shape[1:])
        square = (boundary_map(labels[:, y : y + SQUARE, x : x + SQUARE]) == 1).float()
        # A tile is taken only if all its quarters have a boundary, because others cannot show some motions.
        if F.adaptive_max_pool2d(square[..., MARGIN:-MARGIN, MARGIN:-MARGIN], 2).all():
            squares.append(square)
    stacked = torch.stack(squares)
    a = torch.randn(len(displacements), 8, generator=generator)
    a = a / a.norm(dim=1, keepdim=True) * (displacements / HALF)[:, None]
    for _ in range(5):  # the corners move nearly in proportion to a, so a few corrections reach the displacement
        a = a * (displacements / corners(a))[:, None]
    true = stacked[..., MARGIN:-MARGIN, MARGIN:-MARGIN].contiguous()
    return Starts(stacked, Truth(true, *distances(true)), a)


def corners(a: Tensor) -> Tensor:
    """Compute the mean displacement (N,) of the tile's corners, in pixels."""
    return homography.corner_displacement(homography.exp(a)) * HALF


def warped(squares: Tensor, a: Tensor) -> Tensor:
    view = torch.tensor([TILE / SQUARE, TILE / SQUARE, 1.0]).diag()
    return homography_warp(squares, view @ homography.exp(a), (TILE, TILE))


def distances(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Compute distances ``(N, 1, H, W)``: of the pixels outside a mask to it, and of those inside to the outside.

    Both are 0 where they do not apply, and everywhere if the mask is empty.
    """
    outside, inside = torch.zeros(2, *masks.shape)
    for n, mask in enumerate(masks.bool()):
        if mask.any() and not mask.all():
            outside[n], inside[n] = _distance(~mask), _distance(mask)
    return outside, inside


def _distance(mask: Tensor) -> Tensor:
    """Compute the distance of each pixel of a mask ``(1, H, W)`` to the nearest one outside."""
    return torch.from_numpy(cv2.distanceTransform(mask[0].byte().numpy(), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))


def displaced(starts: Starts) -> Tensor:
    return warped(starts.squares, starts.a) > 0.5
