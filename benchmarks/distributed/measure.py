"""What one of two processes measures. A spawned process imports it by name, which it cannot do with a ``__main__``."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import inverseform_fast as iff
from benchmarks.common import results
from benchmarks.common.results import Json
from benchmarks.compiled.steps import PAPER
from inverseform_fast.bench.street import street_labels
from inverseform_fast.bench.timing import in_turns, spread
from inverseform_fast.whole_batch import COUNTS

PROCESSES, IMAGES, CROP, CLASSES, STRIDE = 2, 1, (256, 512), 19, 4
LOSSES: dict[str, dict[str, Any]] = {"default, headless": {}, "paper, headless": PAPER}


class Exchanged(TorchDispatchMode):
    """Adds up the bytes of the vectors that all-reduces are given."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op.name().startswith("_c10d_functional::all_reduce"):
            self.bytes += args[0].nbytes
        return op(*args, **(kwargs or {}))


def process(rank: int, folder: Path, rounds: int) -> None:
    """Measures in one process, and writes what it found."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    generator = torch.Generator().manual_seed(rank)
    labels = street_labels(IMAGES, CROP, CLASSES, generator)
    size = [edge // STRIDE for edge in CROP]
    logits = torch.randn(IMAGES, CLASSES, *size, generator=generator).requires_grad_()
    losses = {name: measured(weights, logits, labels, rounds) for name, weights in LOSSES.items()}
    vector = torch.zeros(COUNTS + 3 * CLASSES, dtype=torch.float64)
    alone = [milliseconds(partial(dist.all_reduce, vector))[0] for _ in range(rounds)]
    results.write(folder / f"{rank}.json", {"losses": losses, "all_reduce_ms": spread(alone)._asdict()})
    dist.destroy_process_group()


def measured(weights: dict[str, Any], logits: Tensor, labels: Tensor, rounds: int) -> Json:
    """Milliseconds of one loss without and with the group, of their difference in a round, and the bytes exchanged.

    Those of the clock depend on what else the machine does; those of this process's CPU time hardly do.
    """
    groups = {"without": None, "with": dist.group.WORLD}
    steps = {name: partial(step, criterion_of(weights, group), logits, labels) for name, group in groups.items()}
    exchanged = {}
    for name, each in steps.items():  # the first call makes constants
        with Exchanged() as counter:
            each()
        exchanged[name] = counter.bytes
    samples = in_turns({name: partial(milliseconds, each) for name, each in steps.items()}, rounds)
    found: Json = {"bytes": exchanged}
    for place, clock in enumerate(("ms", "cpu_ms")):
        times = {name: [sample[place] for sample in taken] for name, taken in samples.items()}
        times["difference"] = [b - a for a, b in zip(times["without"], times["with"], strict=True)]
        found[clock] = {name: spread(taken)._asdict() for name, taken in times.items()}
    return found


def criterion_of(weights: dict[str, Any], group: dist.ProcessGroup | None) -> iff.BoundaryAwareLoss:
    return iff.BoundaryAwareLoss(**weights, process_group=group)


def step(criterion: iff.BoundaryAwareLoss, logits: Tensor, labels: Tensor, counts: Tensor | None = None) -> None:
    torch.autograd.grad(criterion(logits, labels, counts=counts).total, logits)


def milliseconds(call: Callable[[], object]) -> tuple[float, float]:
    """Times a call that all processes begin together, by the clock and by the CPU time of this process."""
    dist.barrier()
    begin, cpu = time.perf_counter(), time.process_time()
    call()
    return 1e3 * (time.perf_counter() - begin), 1e3 * (time.process_time() - cpu)
