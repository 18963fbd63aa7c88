"""Breaks the machine code of every kernel, one instruction at a time, and tells whether the machine notices.

A mutant lacks a barrier, a wait or fence of asynchronous work, or the mask of an access to memory; or its lanes keep
their own values where they should shuffle them. It is *seen* if it faults, or if any bit of any tensor differs from
what the whole kernel makes. Otherwise :data:`WITHOUT_EFFECT` says why it may be left out.
``PYTHONPATH=.:tests python -m machine_code.ptx.mutants`` writes ``benchmarks/results/ptx_mutants.json``; ``--cases``
does those cases anew, and keeps what the file has of the other ones.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from helpers import deterministic, results_and_gradients
from torch import Tensor

from benchmarks.common import paths
from benchmarks.common.results import Json, read, write
from benchmarks.compiled.driver import fake_gpu
from inverseform_fast import functional

from .assembler import Assembled, assemble
from .cases import CAPABILITIES, CASES, Case
from .interpreter import Interpreter, Launch, MachineFault, find, run
from .text import Kernel, Statement

RESULTS = paths.RESULTS / "ptx_mutants.json"
KINDS = ("barrier", "wait", "shuffle", "mask")
THOROUGH = 90  # the capability for which shuffles and masks are left out, too
ORDERS = 4  # in which a mutant runs before it counts as without effect
FAULTS = {"race": "a race", "out of bounds": "out of bounds", "misaligned": "misaligned"}  # and words of the message
WAITS = (
    "wgmma.fence", "wgmma.commit", "wgmma.wait", "fence.proxy", "tcgen05.commit", "tcgen05.wait", "mbarrier.try_wait",
)  # fmt: skip
WITHOUT_EFFECT = {
    "barrier": "no thread accesses what another one wrote, or writes what another one read, across this barrier alone",
    "shuffle": "the lanes hold the same bits as those that they would receive, or nothing uses the result",
    "mask": "the lanes that it keeps out would access memory of the arguments, race with none, and change no bit",
    "idle mask": "it keeps no lane out at these sizes",
    "wait": "its work is done by the next wait",
}


def mutants(kernel: Kernel) -> Iterator[tuple[str, int, Kernel]]:
    """Yield the kind of each mutant, the number of its statement, and the kernel that it makes."""
    for i, statement in enumerate(kernel.statements):
        name = statement.name
        if name.startswith(("bar.sync", "bar.warp.sync")):
            yield "barrier", i, _without(kernel, i)
        elif name.startswith("shfl"):
            yield "shuffle", i, _with(kernel, i, replace(statement, name="mov.b32", operands=statement.operands[:2]))
        elif name.startswith("mbarrier.try_wait"):  # that it waits in a loop
            yield (
                "wait",
                i,
                _with(kernel, i, replace(statement, name="mov.pred", operands=(statement.operands[0], "1"))),
            )
        elif name.startswith(WAITS):
            yield "wait", i, _without(kernel, i)
        elif statement.guard and name.startswith(("ld.", "st.", "atom.")):
            yield "mask", i, _with(kernel, i, replace(statement, guard=""))


def _with(kernel: Kernel, i: int, statement: Statement) -> Kernel:
    return replace(kernel, statements=(*kernel.statements[:i], statement, *kernel.statements[i + 1 :]))


def _without(kernel: Kernel, i: int) -> Kernel:
    removed, after, *rest = kernel.statements[i:]
    after = replace(after, labels=removed.labels + after.labels)
    return replace(kernel, statements=(*kernel.statements[:i], after, *rest))


class Recorded(NamedTuple):
    """A launch, and all bytes of its tensors' memory before and after it, for one or more beginnings."""

    assembled: Assembled
    launch: Launch
    states: list[tuple[list[Tensor], list[Tensor]]]


class Recorder(Interpreter):
    """Keeps the first launch of every kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: dict[str, Recorded] = {}  # by kernel

    def run(self, assembled: Assembled, launch: Launch) -> None:
        name, states = assembled.kernel.name.lstrip("_"), []
        for readings in thresholds(assembled, launch) if name == "drop_noise" else (None,):
            if readings is not None:
                launch.tensors["a"].copy_(readings)
            before = [x.clone() for x in memory(launch)]
            super().run(assembled, launch)
            states.append((before, [x.clone() for x in memory(launch)]))
        self.recorded.setdefault(name, Recorded(assembled, launch, states))


def thresholds(assembled: Assembled, launch: Launch) -> list[Tensor]:
    """Scale the readings of tiles until they are just dropped as noise, and just kept: any other noise is then seen."""
    a = launch.tensors["a"]
    readings = a.clone()
    dropped, kept = torch.zeros_like(a[..., :1]), torch.ones_like(a[..., :1])  # scales
    for _ in range(24):
        scale = (dropped + kept) / 2
        a.copy_(readings * scale)
        run(assembled, launch, 0)
        is_kept = a.any(-1, keepdim=True)
        dropped, kept = torch.where(is_kept, dropped, scale), torch.where(is_kept, scale, kept)
    return [readings * dropped, readings * kept]


def memory(launch: Launch) -> list[Tensor]:
    """The bytes of the storages of a launch's tensors."""
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage() for x in launch.tensors.values()}
    return [torch.empty(0, dtype=torch.uint8).set_(storage) for storage in storages.values()]


def seen(mutant: Kernel, recorded: Recorded) -> str | None:
    """Run a mutant of the recorded kernel; return how it is seen, or None."""
    assembled, launch = assemble(mutant, find), recorded.launch
    for (before, after), seed in itertools.product(recorded.states, range(ORDERS)):
        for now, then in zip(memory(launch), before, strict=True):
            now.copy_(then)
        try:
            run(assembled, launch, seed)
        except MachineFault as fault:
            return next((kind for kind, words in FAULTS.items() if words in str(fault)), "another fault")
        if not all(torch.equal(now, then) for now, then in zip(memory(launch), after, strict=True)):
            return "other values"
    return None


def launches(case: Case, capability: int) -> dict[str, Recorded]:
    """Record the launches of a case, by kernel."""
    torch.manual_seed(0)
    inputs, recorder = case.inputs(), Recorder()
    with (
        fake_gpu(capability, recorder),
        torch.backends.cudnn.flags(enabled=True, allow_tf32=case.tensor_floats),
        deterministic(),
    ):
        results_and_gradients(getattr(functional, case.op), *inputs, **case.options)
    return recorder.recorded


def examine(recorded: Recorded, kinds: Collection[str] = KINDS) -> list[Json]:
    """Try the mutants of a kernel; return a row for each kind of them."""
    ways: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, i, mutant in mutants(recorded.assembled.kernel):
        if kind not in kinds:
            continue
        if way := seen(mutant, recorded):
            ways[kind][way] += 1
        else:
            idle = kind == "mask" and not recorded.assembled.ops[i]["kept_out"]
            reasons[kind][WITHOUT_EFFECT["idle mask" if idle else kind]] += 1
    return [
        {"left out": kind, "seen": dict(ways[kind]), "without effect": dict(reasons[kind])}
        for kind in KINDS
        if ways[kind] or reasons[kind]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES], metavar="CASE")
    cases = parser.parse_args().cases
    rows = [row for row in read(RESULTS)["rows"] if row["case"] not in cases]
    elsewhere = {(row["kernel"], row["sm"]) for row in rows}
    for capability in CAPABILITIES:
        kinds, done = KINDS if capability == THOROUGH else KINDS[:2], set()
        for name in cases:
            for kernel, recorded in launches(CASES[name], capability).items():
                statements = recorded.assembled.kernel.statements
                # Some kernels are the same with and without TF32, or serve several ops.
                if statements not in done and (kernel, capability) not in elsewhere:
                    row = {"case": name, "kernel": kernel, "sm": capability}
                    rows += [row | of_kind for of_kind in examine(recorded, kinds)]
                    print(f"sm_{capability}, {name}: {kernel}", flush=True)
                done.add(statements)
    write(RESULTS, {"orders": ORDERS, "rows": rows})


if __name__ == "__main__":
    main()
