"""boundary_map, plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

VOID = 255


def is_valid(labels: Tensor, ignore_index: int) -> Tensor:
    """Which labels are not void."""
    ids = torch.iinfo(labels.dtype)
    if ids.min <= ignore_index <= ids.max:
        return labels != ignore_index
    # A comparison would wrap around: -100 would be class 156 of uint8 labels.
    return torch.ones_like(labels, dtype=torch.bool)


def half_disk(radius: int, height: int, width: int) -> list[tuple[int, int]]:
    """Offsets (dy, dx) with 0 < dy^2 + dx^2 <= radius^2; of two opposite ones, only one is listed.

    No offset is longer than the image.
    """
    down, aside = min(radius, height), min(radius, width)
    return [
        (dy, dx)
        for dy in range(down + 1)
        for dx in range(-aside, aside + 1)
        if dy * dy + dx * dx <= radius * radius and (dy > 0 or dx > 0)
    ]


def neighbours(height: int, width: int, offset: tuple[int, int]) -> tuple[tuple, tuple]:
    """Indices of all pixels whose neighbour at ``offset`` (dy >= 0) lies inside the image, and of those neighbours."""
    dy, dx = offset
    left, right = max(0, -dx), max(0, dx)
    rows, columns = max(0, height - dy), max(0, width - left - right)
    here = (..., slice(0, rows), slice(left, left + columns))
    there = (..., slice(dy, dy + rows), slice(right, right + columns))
    return here, there


def boundary_map(labels: Tensor, radius: int = 2, ignore_index: int = 255, release: bool = False) -> Tensor:
    """See :func:`inverseform_fast.functional.boundary_map`."""
    valid = is_valid(labels, ignore_index)
    if not release:
        return torch.where(valid, _near_another_class(labels, valid, radius), VOID)
    # Class 0, void and a ring of one pixel around the image are all "no class"; the others are drawn against it.
    padded = F.pad(torch.where(valid, labels, 0), (1, 1, 1, 1))
    boundary = _near_another_class(padded, torch.ones_like(padded, dtype=torch.bool), radius)
    return boundary[..., 1:-1, 1:-1].contiguous()


def _near_another_class(labels: Tensor, valid: Tensor, radius: int) -> Tensor:
    height, width = labels.shape[-2:]
    near = torch.zeros_like(valid, dtype=torch.uint8)  # not bool: torch.compile's C++ for that does not compile
    for offset in half_disk(radius, height, width):
        here, there = neighbours(height, width, offset)
        differs = ((labels[here] != labels[there]) & valid[here] & valid[there]).to(torch.uint8)
        near[here] |= differs
        near[there] |= differs
    return near
