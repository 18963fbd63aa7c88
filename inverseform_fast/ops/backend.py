"""Which implementation an op runs on: the choice, its override, and its explanation."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BACKENDS = ("auto", "reference", "cpu", "triton", "cuda")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_OPS: list[Op] = []


def _load(library: str) -> str | None:
    """Load a binary of the C++/CUDA extension, which registers its ops; or why it cannot be."""
    path = next(Path(__file__).parents[1].glob(f"{library}.*so"), None)
    if path is None:
        return f"the extension was not built (no inverseform_fast/{library}.*so); `pip install -v` says what it lacks"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path.name} does not load: {error.__cause__ or error}"
    return None


# Why a backend's code is not there, whatever the device.
MISSING = {"cpu": _load("_C"), "triton": None if find_spec("triton") else "triton is not installed"}
MISSING["cuda"] = MISSING["cpu"] or _load("_C_cuda")


class Op:
    """One op and its implementations by backend; calling it runs the one in force for its first argument."""

    def __init__(self, **implementations: Callable[..., Any]) -> None:
        self.implementations = implementations
        self.name = implementations["reference"].__name__
        self.single = set() if "cuda" in implementations else {"cpu", "triton"}  # so3's also compute in float64
        _OPS.append(self)

    def __call__(self, *args: Any) -> Any:
        return self.implementations[self._choose(args[0])](*args)

    def _choose(self, tensor: Tensor) -> str:
        if _backend == "auto":
            best = self._best("cuda" if tensor.is_cuda else tensor.device.type)
            if best in self.single and (tensor.dtype == torch.float64 or _transformed()):
                return "reference"
            if MISSING.get(best):
                _log_once(f"plain PyTorch runs in place of {best} kernels: {MISSING[best]}")
                return "reference"
            return best
        if _backend not in self.implementations or _backend == "reference":
            return "reference"
        device = "cpu" if _backend == "cpu" else "cuda"
        if tensor.device.type != device and not (_backend == "triton" and INTERPRETED):
            raise RuntimeError(
                f"{self.name}: backend {_backend!r} runs on {device.upper()} tensors, got one on {tensor.device}"
            )
        if tensor.dtype == torch.float64 and _backend in self.single:
            raise TypeError(f"{self.name}: backend {_backend!r} computes in float32, got {tensor.dtype}; use 'auto'")
        return _backend

    def _best(self, device: str) -> str:
        """The implementation made for a type of device."""
        made_for_it = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}.get(device, ())
        return next((name for name in made_for_it if name in self.implementations), "reference")

    @property
    def backend(self) -> str:
        """What runs on this machine's best device."""
        if _backend != "auto":
            return _backend if _backend in self.implementations else "reference"
        best = self._best("cuda" if torch.cuda.is_available() else "cpu")
        return "reference" if MISSING.get(best) else best


def kernel_op(function: Callable[..., Any]) -> Any:
    """Register ``function`` as ``torch.ops.inverseform_fast.<its name>``; it runs with its tensors' device current."""

    def on_device(first: Tensor, *args: Any) -> Any:
        with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
            return function(first, *args)

    name = f"inverseform_fast::{function.__name__.strip('_')}"
    schema = torch.library.infer_schema(function, mutates_args=())
    return torch.library.custom_op(name, on_device, mutates_args=(), schema=schema)


def runs_on_cpu(tensor: Tensor) -> bool:
    """Whether an op's C++ kernel takes the tensor, rather than its Triton kernel."""
    return tensor.device.type == "cpu" and _backend != "triton"


def differentiate_losses(forward: Any, backward: Any) -> None:
    """Autograd of an op ``-> (loss, scale, gradient)`` that has made its first input's gradient, but for the scale.

    ``backward(grad, gradient, scale, dtype)`` brings the two together.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, scale, gradient = output
        ctx.save_for_backward(gradient, scale)
        ctx.set_materialize_grads(False)  # of zeros, for what only backward reads
        ctx.dtype, ctx.others = inputs[0].dtype, len(inputs) - 1

    def scaled(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return backward(grad, *ctx.saved_tensors, ctx.dtype), *[None] * ctx.others

    forward.register_autograd(scaled, setup_context=save)


def _transformed() -> bool:
    """Whether torch.func transforms the call, which custom ops with autograd do not support."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


@functools.cache
def _log_once(message: str) -> None:
    logging.getLogger("inverseform_fast").warning(message)


def _usable(backend: str) -> str:
    """``backend`` if it can run here; otherwise an error that says why not."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    reason = _why_not(backend)
    if reason:
        raise RuntimeError(f"backend {backend!r} cannot run here: {reason}")
    return backend


def _why_not(backend: str) -> str | None:
    needs_gpu = backend == "cuda" or (backend == "triton" and not INTERPRETED)
    no_gpu = "torch sees no CUDA device" if needs_gpu and not torch.cuda.is_available() else None
    return MISSING.get(backend) or no_gpu


class set_backend:
    """Choose the backend of every op: ``"auto"`` (the best one that runs), ``"reference"``, ``"cpu"`` (C++),
    ``"triton"`` or ``"cuda"``.

    An op that a backend lacks runs on the reference. Takes effect at once; used as a context manager it restores the
    previous choice at the end. The environment variable ``INVERSEFORM_FAST_BACKEND`` sets the choice at import.

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
    active = {op.backend for op in _OPS}
    backends = {
        name: _why_not(name) or ("active" if name in active else "available") for name in BACKENDS if name != "auto"
    }
    return {"backends": backends, "ops": {op.name: op.backend for op in _OPS}}


_backend = _usable(os.environ.get("INVERSEFORM_FAST_BACKEND") or "auto")
