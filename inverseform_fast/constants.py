"""Constant tensors, made once for each device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
