"""Which implementation an op runs on: the choice, its override, and its explanation."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

BACKENDS = ("auto", "reference", "triton", "cuda")
_OPS: list[Op] = []


class Op:
    """One op and its implementations by backend; calling it runs the one in force."""

    def __init__(self, **implementations: Callable[..., Any]) -> None:
        self.implementations = implementations
        self.name = implementations["reference"].__name__
        _OPS.append(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.implementations["reference" if _backend == "auto" else _backend](*args, **kwargs)


def _usable(backend: str) -> str:
    """``backend`` if it can run here; otherwise an error that says why not."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    reason = _why_not(backend)
    if reason:
        raise RuntimeError(f"backend {backend!r} cannot run here: {reason}")
    return backend


def _why_not(backend: str) -> str | None:
    if backend in ("auto", "reference"):
        return None
    return f"this version of inverseform_fast has no {backend} kernels; use 'auto' or 'reference'"


class set_backend:
    """Choose the backend of every op: ``"auto"`` (the best one that runs), ``"reference"``, ``"triton"`` or ``"cuda"``.

    Takes effect at once; used as a context manager it restores the previous choice at the end. The environment variable
    ``INVERSEFORM_FAST_BACKEND`` sets the choice at import.

    Raises:
        ValueError: ``backend`` is none of these names.
        RuntimeError: the backend cannot run here; the message says why.
    """

    def __init__(self, backend: str) -> None:
        global _backend
        usable = _usable(backend)
        self._previous, _backend = _backend, usable

    def __enter__(self) -> set_backend:
        return self

    def __exit__(self, *exception: object) -> None:
        global _backend
        _backend = self._previous


def backend_info() -> dict[str, dict[str, str]]:
    """What is active, and why the rest is not.

    Returns:
        ``{"backends": {name: "active" | "available" | reason}, "ops": {op: backend}}``.
    """
    active = "reference" if _backend == "auto" else _backend
    backends = {
        name: _why_not(name) or ("active" if name == active else "available") for name in BACKENDS if name != "auto"
    }
    return {"backends": backends, "ops": {op.name: active for op in _OPS}}


_backend = _usable(os.environ.get("INVERSEFORM_FAST_BACKEND") or "auto")
