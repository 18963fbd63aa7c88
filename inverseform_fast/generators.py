"""The generators of sl(3), and constants made once for each device: what homography.py and the references share."""

from __future__ import annotations

import math
from collections.abc import Callable

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
    """The generators G_k of sl(3), ``(8, 3, 3)``: trace zero, mutually orthogonal, in the order of ``GENERATORS``."""
    rows = [[0.0] * 9 for _ in _RAW]
    for row, (entries, displacement) in zip(rows, _RAW, strict=True):
        for i, j, value in entries:
            row[3 * i + j] = value / displacement
    return torch.tensor(rows, dtype=dtype, device=device).view(8, 3, 3)


_CONSTANTS: dict[tuple[Callable[..., Tensor], torch.dtype, torch.device], Tensor] = {}


def constant(make: Callable[..., Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    """``make(dtype, device)``, once for each: a copy from the host waits for a GPU."""
    key = make, dtype, device
    if torch.compiler.is_compiling():
        return make(dtype, device)
    if key not in _CONSTANTS:
        with torch.inference_mode(False):
            made = make(dtype, device)
        if type(made) is not Tensor:  # a fake one, of a tracer
            return made
        _CONSTANTS[key] = made
    return _CONSTANTS[key]
