"""A CUDA driver without a GPU: Triton compiles every launch for real, and a Python function receives it.

The function may count the launch (``benchmarks/launches.py``) or run its PTX on the CPU (``tests/machine_code/``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver

from inverseform_fast.ops import backend, library, set_backend

Grid = tuple[int, int, int]
Launch = Callable[[CompiledKernel, Grid, tuple[object, ...]], None]
_devices = itertools.count(1000)


class FakeDriver:
    """What Triton asks of a driver. Each instance is a device of its own, so Triton compiles anew for it."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)
        self.device = next(_devices)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@contextmanager
def fake_gpu(capability: int, launch: Launch) -> Iterator[FakeDriver]:
    """Within the block, Triton kernels of CPU tensors are compiled for a compute capability and given to ``launch``.

    ``launch(kernel, grid, arguments)`` gets the compiled kernel (``kernel.asm["ptx"]``), its grid of programs, and the
    arguments of all of the kernel's parameters in order, compile-time constants included.
    """

    def hand_over(kernel: CompiledKernel) -> None:
        def run(x: int, y: int, z: int, stream: int, function: object, *rest: object) -> None:
            launch(kernel, (x, y, z), rest[4:])  # after the packed metadata, the launch's metadata and two hooks

        kernel.module = kernel.function = kernel
        kernel._run = run

    previous = driver._active
    fake = FakeDriver(capability)
    driver.set_active(fake)
    library.share_the_cpu_with_triton()
    try:
        with (
            patch.object(CompiledKernel, "_init_handles", hand_over),
            patch.object(backend, "INTERPRETED", True),  # CPU tensors may run Triton kernels
            set_backend("triton"),
        ):
            yield fake
    finally:
        driver._active = previous
