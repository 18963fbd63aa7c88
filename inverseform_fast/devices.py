"""The device that a command runs on."""

from __future__ import annotations

import torch


def choose_device(name: torch.device | str | None) -> torch.device:
    """The device called ``name``; if that is None, the GPU if there is one, else the CPU.

    Raises:
        ValueError: this machine has no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise ValueError("it computes nothing")
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        got = repr(name) if isinstance(name, str) else type(name).__name__
        raise ValueError(
            f"device must be one that this machine has, got {got}: {str(error).splitlines()[0]}"
        ) from error
