"""Constant tensors, each made once per dtype and device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_CONSTANTS: dict[tuple[Callable[..., Tensor], torch.dtype, torch.device, tuple[int, ...]], Tensor] = {}


def constant(make: Callable[..., Tensor], dtype: torch.dtype, device: torch.device, *sizes: int) -> Tensor:
    """``make(dtype, device, *sizes)``, called once for these arguments: a copy from the host waits for the GPU."""
    key = make, dtype, device, sizes
    if torch.compiler.is_compiling():
        return make(dtype, device, *sizes)
    if key not in _CONSTANTS:
        with torch.inference_mode(False), torch.device("cpu"):  # whatever the default device is, such as meta
            made = make(dtype, device, *sizes)
        if type(made) is not Tensor:  # a tracer's fake tensor is not kept
            return made
        _CONSTANTS[key] = made
    return _CONSTANTS[key]
