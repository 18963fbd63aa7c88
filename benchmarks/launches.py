"""The launch book: what a training step of the loss launches and compiles on a GPU, written without one.

Triton's kernels are compiled for real and handed to a fake driver (:mod:`benchmarks.compiled.driver`). All tensors are
on the ``meta`` device: they have sizes but no values, so no size is too large, and whatever would read a value back
raises an error. Our ops do what they do for CUDA tensors, and the checks of values that only a CPU makes are left out,
as on a GPU. ``python -m benchmarks.launches`` writes ``results/launches.json``; ``make docs`` shows it.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.profiler import profile
from triton import knobs
from triton.compiler import CompiledKernel

from benchmarks.common import paths, results
from benchmarks.common.machine import machine
from benchmarks.common.results import Json
from benchmarks.compiled.driver import Grid, fake_gpu
from benchmarks.compiled.steps import PAPER, Case, Op, Ops, Size, make_step
from inverseform_fast import InverseFormLoss, checks
from inverseform_fast.bench.timing import in_turns, spread
from inverseform_fast.nets import Align

RESULTS = paths.RESULTS / "launches.json"
COMMAND = "python -m benchmarks.launches"
CAPABILITY = 90

CASES = {
    "default, headless": Case({}),
    "paper, with a head": Case(PAPER, has_head=True),
    "paper, headless": Case(PAPER),
}
SIZES = (Size(8, 512, 1024, 19), Size(16, 480, 480, 150))
# The steps of a run: the first, then ten of other sizes. The last three are tiles, which InverseForm does not resize.
FIRST = SIZES[0]
LATER = [
    *(FIRST._replace(images=images) for images in (1, 7, 16)),
    *(Size(8, height, width, 19) for height, width in ((256, 512), (360, 640), (375, 1242), (1024, 2048))),
    *(Size(images, 224, 448, 19) for images in (1, 3, 32)),
]
# Functions that copy numbers of the host.
COPYING = {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor}
INDEXING = {Tensor.__getitem__, Tensor.__setitem__}  # by a list of numbers, they copy it
COMPILE_ROUNDS, HOST_ROUNDS = 3, 100
# So few pixels that ATen's CPU kernels take next to no time, but as many rows as 512 x 1024 has, and so as many bands.
HOST_SIZE, HOST_TILE = Size(1, 512, 8, 19), 32


@dataclass
class Book:
    """What one step did, in order."""

    launches: list[tuple[CompiledKernel, Grid]] = field(default_factory=list)
    aten: list[str] = field(default_factory=list)  # ops that would each launch a kernel of ATen's on a GPU
    buffers: list[int] = field(default_factory=list)  # bytes that ops reserved which do nothing else
    views: int = 0  # ops that do nothing on a GPU
    host: list[str] = field(default_factory=list)  # functions and ops that read or make a tensor on the CPU
    compiled: list[tuple[str, float]] = field(default_factory=list)  # kernels, and the CPU seconds that each took

    def launched(self) -> Counter[str]:
        """Count the launches of each Triton kernel."""
        return Counter(name_of(kernel) for kernel, _ in self.launches)

    def write(self, op: Op) -> None:
        if any(x.device.type == "cpu" for x in (*op.inputs, *op.outputs)):
            self.host.append(op.name)
        if op.is_view:
            self.views += 1
        elif op.reserves:
            self.buffers += [x.nbytes for x in op.outputs]
        else:
            self.aten.append(op.name)


class HostWriter(TorchFunctionMode):
    """Writes calls that make a tensor of numbers of the host, which would be copied to the GPU."""

    def __init__(self, book: Book) -> None:
        super().__init__()
        self.book = book

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        index = args[1] if function in INDEXING else ()
        lists = [x for x in (index if isinstance(index, tuple) else (index,)) if isinstance(x, list)]
        if function in COPYING or lists:
            self.book.host.append(function.__name__)
        return function(*args, **(kwargs or {}))


class Gpu:
    """A GPU that is not there: it begins with no kernel compiled, and writes a book of each step."""

    def __init__(self) -> None:
        self._book = Book()
        self._began = 0.0

    def write(self, step: Callable[[], object]) -> Book:
        """Take a step, whose tensors must be on ``meta``, and return its book."""
        self._book = Book()
        with Ops(self._book.write), HostWriter(self._book):
            step()
        return self._book

    def launch(self, kernel: CompiledKernel, grid: Grid, arguments: tuple[object, ...]) -> None:
        self._book.launches.append((kernel, grid))

    def before_compiling(self, **_: object) -> bool:
        self._began = cpu_seconds()
        return False  # "not compiled elsewhere"

    def after_compiling(self, *, fn: Any, **_: object) -> None:
        self._book.compiled.append((fn.name.lstrip("_"), cpu_seconds() - self._began))


@contextmanager
def gpu() -> Iterator[Gpu]:
    """A :class:`Gpu` within the block."""
    made = Gpu()
    with fake_gpu(CAPABILITY, made.launch), knobs.runtime.scope():
        knobs.runtime.jit_cache_hook, knobs.runtime.jit_post_compile_hook = made.before_compiling, made.after_compiling
        yield made


def name_of(kernel: CompiledKernel) -> str:
    return kernel.name.lstrip("_")


def cpu_seconds() -> float:
    """CPU seconds of this process and of the assemblers that it ran."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def specialization(kernel: CompiledKernel) -> Json:
    """Say which whole numbers the compiler knew to be 1, and which to be multiples of 16."""
    names = list(kernel.src.signature)
    ones = [names[place] for (place,), value in kernel.src.constants.items() if names[place].islower() and value == 1]
    whole = {name for name, kind in kernel.src.signature.items() if kind in ("i32", "i64")}
    multiples = [names[place] for (place,), known in kernel.src.attrs.items() if known and names[place] in whole]
    return {"ones": ones, "multiples_of_16": multiples}


def as_json(first: Book, usual: Book) -> Json:
    """Describe the first step of a run, which compiles, and a usual one."""
    launches = Counter((name_of(kernel), grid, str(specialization(kernel))) for kernel, grid in usual.launches)
    known = {str(specialization(kernel)): specialization(kernel) for kernel, _ in usual.launches}
    return {
        "launches": [
            {"kernel": name, "grid": grid[0], "count": count, **known[text]}
            for (name, grid, text), count in launches.items()
        ],
        "aten": dict(sorted(Counter(usual.aten).items())),
        "buffers": len(usual.buffers),
        "buffer_bytes": sum(usual.buffers),
        "views": usual.views,
        "compiled": dict(Counter(name for name, _ in first.compiled)),
    }


def book_of(case: Case, size: Size) -> Json:
    """Describe the steps of a case on a GPU that has compiled nothing."""
    step = make_step(case, size)
    with gpu() as device:
        return as_json(device.write(step), device.write(step))


def compile_cpu_s(case: Case) -> dict[str, list[float]]:
    """CPU seconds of each kernel that a first step compiles, and of each of its variants: the least of a few rounds."""
    rounds = []
    for _ in range(COMPILE_ROUNDS):
        with tempfile.TemporaryDirectory() as folder, knobs.cache.scope(), gpu() as device:
            knobs.cache.dir = folder  # which has nothing compiled
            rounds.append(device.write(make_step(case, FIRST)).compiled)
    seconds: dict[str, list[float]] = {}
    for same in zip(*rounds, strict=True):
        seconds.setdefault(same[0][0], []).append(round(min(spent for _, spent in same), 2))
    return seconds


def compiled_later(case: Case) -> dict[str, list[str]]:
    """Name the kernels that the steps of other sizes compile in a run, after its first step."""
    with gpu() as device:
        device.write(make_step(case, FIRST))
        books = {size: device.write(make_step(case, size)) for size in LATER}
    return {
        f"{size.images} x {size.height} x {size.width}": [name for name, _ in book.compiled]
        for size, book in books.items()
    }


@contextmanager
def host_steps() -> Iterator[Mapping[str, Callable[[], object]]]:
    """Steps of few pixels on the CPU, for what the host does: Triton's kernels are free, and no value is checked."""
    term = InverseFormLoss(Align(HOST_TILE), resize=(HOST_TILE, HOST_TILE))
    with fake_gpu(CAPABILITY, lambda *_: None), patch.object(checks, "readable", lambda _: False):
        steps = {name: make_step(case, HOST_SIZE, device="cpu", inverseform=term) for name, case in CASES.items()}
        for step in steps.values():
            step()
        yield steps


def host_ms() -> Json:
    """Time the host in a step: milliseconds of CPU time."""

    def measured(step: Callable[[], object]) -> float:
        begin = time.process_time()
        step()
        return 1e3 * (time.process_time() - begin)

    with host_steps() as steps:
        samples = in_turns({name: partial(measured, step) for name, step in steps.items()}, HOST_ROUNDS)
    return {name: spread(each)._asdict() for name, each in samples.items()}


def fills_if_deterministic() -> Json:
    """Count how many new buffers PyTorch fills in a step if it must be deterministic, as seen on a CPU."""

    def fills(step: Callable[[], object]) -> int:
        with profile() as profiled:
            step()
        return sum(event.name == "aten::fill_" for event in profiled.events() or [])

    with host_steps() as steps:
        usual = {name: fills(step) for name, step in steps.items()}
        torch.use_deterministic_algorithms(True)
        try:
            return {name: fills(step) - usual[name] for name, step in steps.items()}
        finally:
            torch.use_deterministic_algorithms(False)


# What differs from machine to machine comes first, in case there is no time for the rest.
PARTS: dict[str, Callable[[], Any]] = {
    "host_ms": host_ms,
    "compile_cpu_s": lambda: {name: compile_cpu_s(case) for name, case in CASES.items()},
    "books": lambda: [
        {"case": name, "size": str(size), **book_of(case, size)} for name, case in CASES.items() for size in SIZES
    ],
    "fills_if_deterministic": fills_if_deterministic,
    "compiled_later": lambda: {name: compiled_later(case) for name, case in CASES.items()},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    out = parser.parse_args().out
    result: Json = {"machine": machine(on_gpu=False), "capability": CAPABILITY}
    for name, part in PARTS.items():
        result[name] = part()
        results.write(out, result)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
