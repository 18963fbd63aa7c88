"""Labels that lie beside the truth, in three ways. Each image has its own, which the seed and its index decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import contourpy
import numpy as np
import torch
from numpy.random import Generator
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor

from benchmarks.common.labels import VOID, read_at
from inverseform_fast import homography

TILE = 224  # the tile in whose pixels a homography's |a| is given

Labels = np.ndarray  # (H, W) uint8 class ids


@dataclass(frozen=True)
class Setting:
    """A kind of displacement, and how large it is in pixels."""

    kind: str
    px: int

    @property
    def name(self) -> str:
        return f"{self.kind} {self.px}" if self.px else "exact"


class Displaced(NamedTuple):
    """Labels (N, H, W), and where they were read, (N, 2, H, W) in pixels, if one such motion made them."""

    labels: Tensor
    motion: Tensor | None


def displaced(truth: Tensor, setting: Setting, seed: int) -> Displaced:
    """The labels (N, H, W) uint8 of a setting. Void stays void."""
    generators = [np.random.default_rng((seed, index)) for index in range(len(truth))]
    if setting.kind == "homography":
        a = torch.stack([random_direction(generator) for generator in generators]) * 2 * setting.px / TILE
        motion = motion_of(a, (truth.shape[1], truth.shape[2]))
        return Displaced(read_at(truth, motion), motion)
    pairs = zip(truth.numpy(), generators, strict=True)
    moved = [KINDS[setting.kind](labels, setting.px, generator) for labels, generator in pairs]
    return Displaced(torch.from_numpy(np.stack(moved)), None)


def random_direction(generator: Generator) -> Tensor:
    """Coefficients (8,) of length 1."""
    direction = torch.from_numpy(generator.standard_normal(8)).float()
    return direction / direction.norm()


def motion_of(a: Tensor, size: tuple[int, int]) -> Tensor:
    """How far the homographies exp(a (N, 8)) of the image's coordinates move its pixels: (N, 2, H, W), in pixels."""
    height, width = size
    y, x = torch.meshgrid(*(torch.linspace(1 / edge - 1, 1 - 1 / edge, edge) for edge in size), indexing="ij")
    here = torch.stack((x, y), -1)
    theta = homography.exp(a)[:, None]
    there = here @ theta[..., :2].mT + theta[..., None, :, 2]
    motion = there[..., :2] / there[..., 2:] - here
    return motion.movedim(-1, 1) * torch.tensor([width / 2, height / 2])[:, None, None]


def objects(truth: Labels, px: int, generator: Generator) -> Labels:
    """Each connected region of a class is moved on its own by 0 to ``px``; small ones lie over large ones."""
    moved = np.full_like(truth, VOID)
    for class_id, y, x in regions(truth):
        angle, length = generator.uniform(0, 2 * np.pi), generator.uniform(0, px)
        y, x = y + round(length * np.sin(angle)), x + round(length * np.cos(angle))
        inside = (y >= 0) & (y < truth.shape[0]) & (x >= 0) & (x < truth.shape[1])
        moved[y[inside], x[inside]] = class_id
    return without_gaps(moved, truth)


def coarse(truth: Labels, px: int, generator: Generator) -> Labels:
    """Each connected region becomes a polygon with a corner at every ``px``-th point of its outline, at least four."""
    canvas = Image.new("L", truth.shape[::-1], VOID)
    draw = ImageDraw.Draw(canvas)
    for class_id, y, x in regions(truth):
        mask = np.zeros((truth.shape[0] + 2, truth.shape[1] + 2))  # an outline is closed within a margin
        mask[y + 1, x + 1] = 1
        outline = max(cast(list[np.ndarray], contourpy.contour_generator(z=mask).lines(0.5)), key=len)
        step = max(1, min(px, len(outline) // 4))
        corners = outline[generator.integers(step) :: step] - 1
        draw.polygon([tuple(corner) for corner in corners.tolist()], fill=int(class_id))
    return without_gaps(np.array(canvas), truth)


KINDS: dict[str, Callable[[Labels, int, Generator], Labels]] = {"objects": objects, "coarse": coarse}


def regions(labels: Labels) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """The class and the pixels (y, x) of every connected region, the largest first; void is none."""
    found = []
    for class_id in np.unique(labels[labels != VOID]):
        numbered, _ = ndimage.label(labels == class_id)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbered), 1):
            y, x = np.nonzero(numbered[rows, columns] == number)
            found.append((class_id, y + rows.start, x + columns.start))
    return sorted(found, key=lambda region: -len(region[1]))


def without_gaps(labels: Labels, truth: Labels) -> Labels:
    """Void gets the nearest label, but stays where the truth is void."""
    nearest = ndimage.distance_transform_edt(labels == VOID, return_distances=False, return_indices=True)
    return np.where(truth == VOID, truth, labels[tuple(nearest)])
