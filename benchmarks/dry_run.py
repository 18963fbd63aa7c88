"""``python -m benchmarks.dry_run -m MODULE ...`` runs a program as if this machine had a GPU; nothing it says is true.

All that pretends is here. PyTorch says that there is a GPU, and that each tensor is on it; tensors stay on the CPU.
Triton compiles each launch for the GPU, and a fake driver drops it (:mod:`benchmarks.compiled.driver`); the C++ kernels
then compute the results. Sizes are small, and ``torch.compile`` compiles nothing. ``benchmarks.gpu --dry-run`` runs its
programs so, which shows that nothing but hardware can stop them.
"""

from __future__ import annotations

import runpy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import inverseform_fast as iff
from benchmarks.compiled.driver import fake_gpu
from inverseform_fast.bench import measure, timing
from inverseform_fast.bench.setting import Setting
from inverseform_fast.ops import backend, library

CAPABILITY = 90
CROP, IMAGES, SETTINGS = (64, 96), 2, ("hrnet_w18", "SegFormer B2", "headless")
GPU_MEMORY, LARGE_CROP = 2**26, (256, 512)  # bytes of the largest tensor that fits, which are those of six images


class _Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self.time = 0.0

    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        """Nothing runs that could be waited for."""

    def elapsed_time(self, end: _Event) -> float:
        return 1e3 * (end.time - self.time)


class _Generator(torch.Generator):
    def __new__(cls, device: object = None) -> _Generator:
        return super().__new__(cls, "cpu")  # type: ignore[call-arg]


def _nothing(*_: object, **__: object) -> None:
    """What a GPU would do here has no effect on the results."""


CUDA: dict[str, Any] = {  # of torch.cuda
    "is_available": lambda: True,
    "is_bf16_supported": lambda *_: True,
    "is_current_stream_capturing": lambda: False,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_capability": lambda *_: divmod(CAPABILITY, 10),
    "get_device_name": lambda *_: "dry run of an H200",
    "device": nullcontext,
    "Event": _Event,
    "memory_allocated": lambda *_: 0,
    "max_memory_allocated": lambda *_: 0,
    **dict.fromkeys(("synchronize", "empty_cache", "reset_peak_memory_stats", "_sleep"), _nothing),
}


class _OnTheGpu(TorchFunctionMode):
    """Every tensor says that it is on the GPU; what is asked for there is made on the CPU."""

    def __torch_function__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function == Tensor.device.__get__:
            return torch.device("cuda", 0)
        if function == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return True
        if function in (Tensor.cuda, Tensor.pin_memory):
            return args[0]
        if function is torch.device:
            return function(*args, **(kwargs or {}))
        result = function(*map(_here, args), **{name: _here(value) for name, value in (kwargs or {}).items()})
        if isinstance(result, Tensor) and result.nbytes > GPU_MEMORY:
            raise torch.OutOfMemoryError(f"out of memory: a dry run has no {result.nbytes} bytes for a tensor")
        return result


def _here(value: Any) -> Any:
    return torch.device("cpu") if isinstance(value, str | torch.device) and str(value).startswith("cuda") else value


@contextmanager
def _pretended() -> Iterator[None]:
    """Within the block, PyTorch and Triton seem to have a GPU. Our ops and sizes stay changed: the process must end."""
    kernels = {name: _computed_by_cpp(name, launch) for name, launch in library._LAUNCHERS.items()}
    with ExitStack() as stack:
        stack.enter_context(fake_gpu(CAPABILITY, _nothing))
        stack.enter_context(iff.set_backend("auto"))
        stack.enter_context(patch.object(backend, "INTERPRETED", False))
        stack.enter_context(patch.object(backend, "_no_code_for", lambda gpu: None))  # it would ask CUDA
        stack.enter_context(patch.multiple(torch.cuda, **CUDA))
        stack.enter_context(patch.object(torch, "compile", lambda function, **_: function))
        stack.enter_context(patch.object(torch, "Generator", _Generator))
        stack.enter_context(_OnTheGpu())
        for name, kernel in kernels.items():
            library.LIBRARY.impl(name, kernel, "CPU", with_keyset=True, allow_override=True)
        _make_sizes_small()
        yield


def _computed_by_cpp(name: str, launch: Callable[..., Any]) -> Callable[..., Any]:
    """Launch the Triton kernels, which compute nothing here, and then run the C++ kernel."""
    cpp = torch.library.get_kernel(f"{library.LIBRARY.ns}::{name}", "CPU")

    def run(keyset: torch._C.DispatchKeySet, *args: Any) -> Any:
        launch(*args)
        return cpp.call_boxed(keyset, *args)

    return run


def _make_sizes_small() -> None:
    # They are imported late, because they ask at once whether there is a GPU.
    from benchmarks.ops import harness, inputs
    from benchmarks.training import plan

    inputs.ON_GPU, inputs.BATCH, (inputs.HEIGHT, inputs.WIDTH) = False, IMAGES, CROP
    harness.SPENT, harness.COLD, timing.SHORTEST = 0.01, 1, 0.0
    plan.CLASSES, plan.TILES, measure.WARM_UP = plan.CLASSES[:1], plan.TILES[:1], 1
    real = plan.plan_of

    def small(on_gpu: bool) -> plan.Plan:
        made = real(on_gpu)
        settings = {name: _small(made.settings[name]) for name in SETTINGS}
        largest = replace(_small(made.largest), crop=LARGE_CROP)
        batches, crops = made.batches[:1], (CROP,)
        return replace(
            made, settings=settings, scaled=_small(made.scaled), largest=largest, batches=batches, crops=crops
        )

    plan.plan_of = small


def _small(setting: Setting) -> Setting:
    backbone = "test_resnet" if setting.model == "pyramid" else "mit_b0"
    return replace(setting, crop=CROP, batch_size=min(setting.batch_size, IMAGES), backbone=backbone)


def main() -> None:
    module, *arguments = sys.argv[2:]  # after this file and -m
    with _pretended():
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
