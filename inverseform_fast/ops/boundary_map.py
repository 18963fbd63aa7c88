"""boundary_map: its implementations by backend."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .backend import Op, kernel_op


@kernel_op
def _boundary_map(labels: Tensor, radius: int, ignore_index: int, release: bool) -> Tensor:
    from ..kernels import boundary_map as kernel

    return kernel.boundary_map(labels, radius, ignore_index, release)


@_boundary_map.register_fake
def _(labels: Tensor, radius: int, ignore_index: int, release: bool) -> Tensor:
    return torch.empty(labels.shape, dtype=torch.uint8, device=labels.device)


boundary_map = Op(reference=reference.boundary_map, triton=_boundary_map)
