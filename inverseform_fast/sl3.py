"""The Lie algebra sl(3) of homographies: its eight generators."""

from __future__ import annotations

import math

import torch
from torch import Tensor

GENERATORS = ("shift x", "shift y", "rotation", "scale", "aspect", "shear", "perspective x", "perspective y")
# (row, column, value) of each generator before it is scaled, and how far it moves a corner per unit.
_RAW: tuple[tuple[tuple[tuple[int, int, float], ...], float], ...] = (
    (((0, 2, 1.0),), 1.0),
    (((1, 2, 1.0),), 1.0),
    (((0, 1, -1.0), (1, 0, 1.0)), math.sqrt(2)),
    (((0, 0, 1.0), (1, 1, 1.0), (2, 2, -2.0)), 3 * math.sqrt(2)),
    (((0, 0, 1.0), (1, 1, -1.0)), math.sqrt(2)),
    (((0, 1, 1.0), (1, 0, 1.0)), math.sqrt(2)),
    (((2, 0, 1.0),), math.sqrt(2)),
    (((2, 1, 1.0),), math.sqrt(2)),
)


def basis(dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
    """The generators ``(8, 3, 3)`` of sl(3), named by ``GENERATORS``; they are traceless and mutually orthogonal."""
    rows = [[0.0] * 9 for _ in _RAW]
    for row, (entries, displacement) in zip(rows, _RAW, strict=True):
        for i, j, value in entries:
            row[3 * i + j] = value / displacement
    return torch.tensor(rows, dtype=dtype, device=device).view(8, 3, 3)
