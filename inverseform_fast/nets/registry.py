"""The architectures of inverse-transformation networks by name; each is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any


class _Lazy(Mapping[str, Any]):
    """Classes by name, each given as ``"module:class"`` of this package."""

    def __init__(self, **places: str) -> None:
        self._places = places

    def __getitem__(self, name: str) -> Any:
        module, kind = self._places[name].split(":")
        return getattr(import_module(f".{module}", __package__), kind)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


ARCHITECTURES = _Lazy(align="align:Align", dense="paper:Dense", aet="paper:Aet")
