"""channels_first: plain PyTorch takes maps of any memory layout."""

from __future__ import annotations

from torch import Tensor


def channels_first(maps: Tensor) -> Tensor:
    return maps
