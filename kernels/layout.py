"""The layout of gradients; needs no Triton."""

from __future__ import annotations

import torch
from torch import Tensor


def layout(maps: Tensor) -> torch.memory_format:
    last = maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def empty_gradient(maps: Tensor, parts: int = 1) -> Tensor:
    """``(parts * N, C, h, w)`` in the maps' layout, and in float32: it is rounded once, when it has been scaled."""
    shape = (parts * maps.shape[0], *maps.shape[1:])
    return torch.empty(shape, dtype=torch.float32, device=maps.device, memory_format=layout(maps))
