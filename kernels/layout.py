"""The memory layout of gradients. This module needs no Triton, so the ops' fakes use it on every machine."""

from __future__ import annotations

import torch
from torch import Tensor


def layout(
    maps: Tensor,  # [N, C, h, w]
) -> torch.memory_format:
    last = maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def empty_gradient(
    maps: Tensor,  # [N, C, h, w]
    parts: int = 1,
) -> Tensor:
    """``[parts * N, C, h, w]`` in the maps' layout and in float32: it is rounded once, after it has been scaled."""
    shape = (parts * maps.shape[0], *maps.shape[1:])
    return torch.empty(shape, dtype=torch.float32, device=maps.device, memory_format=layout(maps))
