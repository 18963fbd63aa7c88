"""Chooses the implementation that an op runs on; the choice can be overridden, and it can be explained."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from collections.abc import Callable
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

BACKENDS = ("auto", "reference", "cpu", "triton", "cuda")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_OPS: list[Op[Any, Any]] = []
_LOGGED: set[str] = set()

P = ParamSpec("P")
R = TypeVar("R")


def _binary(library: str) -> Path | None:
    return next(Path(__file__).parents[1].glob(f"{library}.*so"), None)


def _load(library: str) -> str | None:
    """Load a binary of the C++/CUDA extension, which registers its kernels; or say why it cannot be loaded."""
    path = _binary(library)
    if path is None:
        return f"the extension was not built (no inverseform_fast/{library}.*so); `pip install -v` says what it lacks"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path.name} does not load: {error.__cause__ or error}"
    return None


# Why a backend's code is missing, whatever the device; None where it is there.
MISSING = {"cpu": _load("_C"), "triton": None if find_spec("triton") else "triton is not installed"}
MISSING["cuda"] = MISSING["cpu"] or _load("_C_cuda")


class Op(Generic[P, R]):
    """One op and its implementations by backend; a call runs the one that is chosen for its first argument.

    ``cpu`` and ``triton`` (or ``cuda``, for the extension) may be the same function, because the dispatcher takes the
    kernel of the tensors' device. ``float64`` says that the kernels compute in float64, too, and that torch.func can
    transform them.
    """

    def __init__(self, reference: Callable[P, R], *, float64: bool = False, **kernels: Callable[P, R]) -> None:
        self.implementations = {"reference": reference, **kernels}
        self.name = reference.__name__
        self.float64 = float64
        self._made_for = {"cpu": "cpu", "cuda": "cuda" if "cuda" in kernels else "triton"}  # by type of device
        _OPS.append(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.implementations[self._choose(cast(Tensor, args[0]))](*args, **kwargs)

    def _choose(self, tensor: Tensor) -> str:
        backend = chosen()
        if backend == "auto":
            best = self._made_for.get(tensor.device.type, "reference")
            if not self.float64 and (tensor.dtype == torch.float64 or _transformed()):
                return "reference"
            reason = MISSING.get(best) or (_no_code_for(tensor.device.index) if best == "cuda" else None)
            if reason:
                _log_once(f"plain PyTorch runs in place of {best} kernels: {reason}")
                return "reference"
            return best
        if backend not in self.implementations or backend == "reference":
            return "reference"
        device = "cpu" if backend == "cpu" else "cuda"
        if tensor.device.type != device and not (backend == "triton" and INTERPRETED):
            raise RuntimeError(
                f"{self.name}: backend {backend!r} runs on {device.upper()} tensors, got one on {tensor.device}"
            )
        if tensor.dtype == torch.float64 and not self.float64:
            raise TypeError(f"{self.name}: backend {backend!r} computes in float32, got {tensor.dtype}; use 'auto'")
        return backend

    @property
    def backend(self) -> str:
        """The backend that runs on this machine's best device."""
        backend = chosen()
        if backend != "auto":
            return backend if backend in self.implementations else "reference"
        best = self._made_for["cuda" if torch.cuda.is_available() else "cpu"]
        return "reference" if _why_not(best) else best


def _transformed() -> bool:
    """Whether torch.func transforms the call, which custom ops with autograd do not support."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


@torch.compiler.assume_constant_result  # torch.compile cannot look into a logger
def _log_once(message: str) -> None:
    if message not in _LOGGED:
        _LOGGED.add(message)
        logging.getLogger("inverseform_fast").warning(message)


def _usable(backend: str) -> str:
    """``backend`` if it can run here; otherwise an error that says why not."""
    if not isinstance(backend, str) or backend not in BACKENDS:
        got = repr(backend) if isinstance(backend, str) else type(backend).__name__
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {got}")
    reason = _why_not(backend)
    if reason:
        raise RuntimeError(f"backend {backend!r} cannot run here: {reason}")
    return backend


def _why_not(backend: str) -> str | None:
    needs_gpu = backend == "cuda" or (backend == "triton" and not INTERPRETED)
    if MISSING.get(backend):
        return MISSING[backend]
    if needs_gpu and not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return _no_code_for(torch.cuda.current_device()) if backend == "cuda" else None


@torch.compiler.assume_constant_result
def _no_code_for(gpu: int) -> str | None:
    """Say why the extension cannot run on this GPU: it may have been compiled for others only."""
    return _asked_for_code(gpu)


@functools.cache
def _asked_for_code(gpu: int) -> str | None:
    path = _binary("_C_cuda")
    if path is None or not torch.cuda.is_available():  # tensors of a GPU may be fakes, which nothing runs for
        return None
    ask = ctypes.CDLL(str(path)).inverseform_fast_cuda_error
    ask.restype = ctypes.c_char_p
    error = ask(gpu)
    if error is None:
        return None
    name, (major, minor) = torch.cuda.get_device_name(gpu), torch.cuda.get_device_capability(gpu)
    return (
        f"{path.name} cannot run on GPU {gpu}, {name} ({error.decode()}); "
        f"build the extension with TORCH_CUDA_ARCH_LIST={major}.{minor}"
    )


class set_backend:
    """Choose the backend of every op: ``"auto"`` (the best one that runs), ``"reference"``, ``"cpu"`` (C++),
    ``"triton"`` or ``"cuda"``.

    An op that a backend lacks runs on the reference. The choice takes effect at once, in the thread (or the asyncio
    task) that makes it. Used as a context manager, ``set_backend`` restores the previous choice at the end. The
    environment variable ``INVERSEFORM_FAST_BACKEND`` sets the choice with which every thread begins.

    Raises:
        ValueError: ``backend`` is none of these names.
        RuntimeError: the backend cannot run here; the message says why.

    Example:
        >>> with iff.set_backend("reference"):
        ...     iff.backend_info()["ops"]["boundary_map"]
        'reference'
    """

    def __init__(self, backend: str) -> None:
        usable = _usable(backend)
        self._previous = _CHOICE.get()
        _choose(usable)

    def __enter__(self) -> set_backend:
        return self

    def __exit__(self, *exception: object) -> None:
        _choose(self._previous)


def _choose(backend: str) -> None:
    global _last_choice
    _CHOICE.set(backend)
    _last_choice = backend


def chosen() -> str:
    """The backend that :class:`set_backend` chose last in this thread."""
    return _chosen_at_compile_time(_last_choice) if torch.compiler.is_compiling() else _CHOICE.get()


@torch.compiler.assume_constant_result
def _chosen_at_compile_time(last_choice: str) -> str:
    """The choice; torch.compile cannot read a ContextVar, but compiles again when ``last_choice`` is another."""
    return _CHOICE.get()


def backend_info() -> dict[str, dict[str, str]]:
    """Say which backends are active, and why the others are not.

    Returns:
        ``{"backends": {name: "active" | "available" | reason}, "ops": {op: backend}}``.

    Example:
        >>> info = iff.backend_info()
        >>> info["backends"]["reference"] in ("active", "available")
        True
    """
    active = {op.backend for op in _OPS}
    backends = {
        name: _why_not(name) or ("active" if name in active else "available") for name in BACKENDS if name != "auto"
    }
    return {"backends": backends, "ops": {op.name: op.backend for op in _OPS}}


_last_choice = _usable(os.environ.get("INVERSEFORM_FAST_BACKEND") or "auto")  # in any thread
_CHOICE = ContextVar("backend", default=_last_choice)
