"""boundary_map: its op, and the choice of an implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .backend import Op
from .library import EXTENSION, kernel, kernel_op


@kernel_op
def _boundary_map(
    labels: Tensor,  # [N, H, W]
    radius: int,
    ignore_index: int,
    release: bool,
) -> Tensor:  # [N, H, W]
    return torch.empty(labels.shape, dtype=torch.uint8, device=labels.device)


@kernel(_boundary_map, "CPU")
def _(labels: Tensor, radius: int, ignore_index: int, release: bool) -> Tensor:
    if release:  # there is no C++ for it, because it serves comparisons only
        return reference.boundary_map(labels, radius, ignore_index, release)
    return EXTENSION.boundary_map_cpu.default(labels, radius, ignore_index)


boundary_map = Op(reference.boundary_map, cpu=_boundary_map, triton=_boundary_map)
