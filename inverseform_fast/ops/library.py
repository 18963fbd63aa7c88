"""Registers ops with torch.library: each op's schema, its results' shapes, and its kernels by device.

C++ kernels for CPU tensors register themselves, under the op's name, when the extension is loaded. Where C++ wants
another step before or after, the kernel is a Python function in ``ops/<op>.py`` (:func:`kernel`).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch import Tensor

from . import backend

Function = TypeVar("Function", bound=Callable[..., Any])

LIBRARY = torch.library.Library("inverseform_fast", "FRAGMENT")
EXTENSION = torch.ops.inverseform_fast  # has every op under its name
_LAUNCHERS: dict[str, Callable[..., Any]] = {}  # they launch Triton kernels, by the op's name


def define(fake: Function) -> Function:
    """Define the op that has the function's name and signature, and whose results are like those of the function."""
    name = fake.__name__.lstrip("_")
    LIBRARY.define(name + torch.library.infer_schema(fake, mutates_args=()), tags=torch.Tag.pt2_compliant_tag)
    torch.library.register_fake(f"{LIBRARY.ns}::{name}", fake, lib=LIBRARY)
    return getattr(EXTENSION, name).default


def kernel_op(fake: Function) -> Function:
    """:func:`define` an op for which CUDA tensors run the Triton kernel of the same name in ``kernels/``."""
    name, module = fake.__name__.lstrip("_"), fake.__module__.rpartition(".")[2]

    def launch(first: Tensor, *args: Any) -> Any:
        triton = import_module(f"inverseform_fast.kernels.{module}")  # late: the package works without Triton
        with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
            return getattr(triton, name)(first, *args)

    op = define(fake)
    LIBRARY.impl(name, launch, "CUDA")
    _LAUNCHERS[name] = launch
    return op


def backward_op(fake: Function) -> Function:
    """Make a gradient's op, as :func:`kernel_op` does; differentiating it raises an error, instead of giving 0."""
    return without_derivative(kernel_op(fake))


def without_derivative(op: Function) -> Function:
    """Make it an error to differentiate the op."""

    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(f"{op} has no derivative: kernels are differentiated once; choose the backend 'reference'")

    torch.library.register_autograd(op, refuse, lib=LIBRARY)  # type: ignore[arg-type]
    return op


def kernel(op: Callable[..., Any], key: str) -> Callable[[Function], Function]:
    """Register the function for the dispatch key ``"CPU"``, or ``"CompositeExplicitAutograd"`` (all devices)."""

    def register(function: Function) -> Function:
        LIBRARY.impl(op, function, key)
        return function

    return register


def differentiate(
    op: Callable[..., Any], backward: Callable[..., Any], setup_context: Callable[[Any, tuple[Any, ...], Any], None]
) -> None:
    """Register the op's autograd formula."""
    torch.library.register_autograd(op, backward, setup_context=setup_context, lib=LIBRARY)  # type: ignore[arg-type]


def differentiate_loss(forward: Callable[..., Any], backward: Callable[..., Tensor]) -> None:
    """Register the autograd of an op that returns ``(loss, scale, gradient)``: the first input's gradient, unscaled.

    ``backward(grad, grad_input, scale, dtype)`` scales it.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, scale, grad_input = output
        ctx.save_for_backward(grad_input, scale)
        ctx.set_materialize_grads(False)  # scale and gradient have no gradients: make no zeros for them
        ctx.dtype, ctx.others = inputs[0].dtype, len(inputs) - 1

    def scaled(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return backward(grad, *ctx.saved_tensors, ctx.dtype), *[None] * ctx.others

    differentiate(forward, scaled, save)


@functools.cache  # a second time would wrap what the first has registered
def share_the_cpu_with_triton() -> None:
    """Let CPU tensors run Triton's kernels, by its interpreter or a fake driver, if that backend is chosen.

    Only here does a device have two kernels. The dispatcher cannot choose between them, so :func:`_either` asks for the
    backend again.
    """
    for name, launch in _LAUNCHERS.items():
        with warnings.catch_warnings():  # torch warns that a kernel is overridden, which is the purpose here
            warnings.filterwarnings("ignore", message="Warning only once for all operators")
            LIBRARY.impl(name, _either(name, launch), "CPU", with_keyset=True, allow_override=True)


def _either(name: str, launch: Callable[..., Any]) -> Callable[..., Any]:
    has_cpp = torch._C._dispatch_has_kernel_for_dispatch_key(f"{LIBRARY.ns}::{name}", "CPU")
    cpp = torch.library.get_kernel(f"{LIBRARY.ns}::{name}", "CPU") if has_cpp else None

    def run(keyset: torch._C.DispatchKeySet, *args: Any) -> Any:
        return launch(*args) if cpp is None or backend.chosen() == "triton" else cpp.call_boxed(keyset, *args)

    return run
