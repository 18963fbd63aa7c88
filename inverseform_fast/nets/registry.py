"""The architectures of inverse-transformation networks; each is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

ARCHITECTURES = {"align": "align:Align", "dense": "paper:Dense", "aet": "paper:Aet"}


def architecture(name: str) -> Any:
    """The class, an :class:`InverseTransformNet`, of one of the names in ``ARCHITECTURES``."""
    module, kind = ARCHITECTURES[name].split(":")
    return getattr(import_module(f".{module}", __package__), kind)
