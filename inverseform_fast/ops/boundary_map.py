"""boundary_map: its implementations by backend."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .backend import Op, kernel_op, runs_on_cpu


@kernel_op
def _boundary_map(labels: Tensor, radius: int, ignore_index: int, release: bool) -> Tensor:
    if runs_on_cpu(labels):
        return torch.ops.inverseform_fast.boundary_map_cpu(labels, radius, ignore_index)
    from ..kernels import boundary_map as kernel

    return kernel.boundary_map(labels, radius, ignore_index, release)


@_boundary_map.register_fake
def _(labels: Tensor, radius: int, ignore_index: int, release: bool) -> Tensor:
    return torch.empty(labels.shape, dtype=torch.uint8, device=labels.device)


def _cpu(labels: Tensor, radius: int, ignore_index: int, release: bool) -> Tensor:
    chosen = reference.boundary_map if release else _boundary_map
    return chosen(labels, radius, ignore_index, release)


boundary_map = Op(reference=reference.boundary_map, cpu=_cpu, triton=_boundary_map)
