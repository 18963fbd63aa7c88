"""Measures the cases of every ``bench_<op>.py``: a provider must compute the right numbers before it is timed.

pytest-benchmark times each case. The case is then appended, as one line of JSON, to the file that the environment
variable ``INVERSEFORM_BENCH_CASES`` names, so that a later crash loses nothing.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from itertools import cycle, product
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch._functorch import config as functorch

import inverseform_fast as iff
from benchmarks.common.machine import ON_GPU, bandwidth
from benchmarks.common.results import Json
from benchmarks.ops.inputs import DEVICE
from benchmarks.ops.workload import Call, Workload, calls
from inverseform_fast.bench.memory import peak_bytes
from inverseform_fast.bench.timing import SHORTEST, clock_of, repeats_of, timed

DIRECTIONS = ("forward", "backward", "both")
PROVIDERS = ("release", "reference", "fused", "compiled")
SPENT = 0.5  # seconds that the rounds of a case take
COLD = 2**28  # bytes of inputs and outputs until a copy is used again: several times a GPU's cache, so it is cold

clock = clock_of(DEVICE)


def backend_of(provider: str) -> iff.set_backend:
    """Set the backend that a provider runs on; skip the case if it cannot run here."""
    if provider == "compiled" and not ON_GPU:
        pytest.skip("torch.compile of all cases takes a CPU ten minutes")
    try:
        return iff.set_backend(("triton" if ON_GPU else "cpu") if provider == "fused" else "reference")
    except RuntimeError as error:
        pytest.skip(str(error))


def cases(
    op: str,
    make: Callable[[str], Workload],
    names: Sequence[str],
    directions: Sequence[str] = DIRECTIONS,
    providers: Sequence[str] = PROVIDERS,
    running: Callable[[str], AbstractContextManager[object]] = backend_of,
) -> Callable[..., None]:
    """Make pytest-benchmark cases of an op: each workload ``make(name)`` in each pass by each provider.

    ``running(provider)`` is the context that a provider runs in.
    """
    make = lru_cache(maxsize=1)(make)  # the cases of one workload follow each other
    # Compiling takes longest, so it comes last: if time runs out, the other providers have been measured.
    order = sorted(product(names, directions, providers), key=lambda case: case[2] == "compiled")

    @pytest.mark.benchmark(timer=clock)
    @pytest.mark.parametrize(("name", "direction", "provider"), order)
    def case(benchmark: BenchmarkFixture, name: str, direction: str, provider: str) -> None:
        benchmark.group = f"{op} {direction}"
        benchmark.extra_info |= {"op": op, "case": name, "pass": direction, "provider": provider}
        if _was_measured(benchmark.extra_info):
            pytest.skip("it was measured before")
        with recorded(benchmark.extra_info), running(provider):
            if provider == "fused" and iff.backend_info()["ops"].get(op) == "reference":
                pytest.skip(f"{op} has no kernel for this device")
            measure(benchmark, make(name), direction, provider)

    return case


def measure(benchmark: BenchmarkFixture, workload: Workload, direction: str, provider: str) -> None:
    """Check one provider's results, then measure its memory and its time."""
    case = benchmark.extra_info
    case |= {"dtype": workload.dtype, "size": workload.size, "bytes": workload.bytes[direction]}
    # Backward alone runs over one graph repeatedly, which donated buffers forbid.
    with functorch.patch(donated_buffer=direction != "backward"):
        torch.compiler.reset()
        function = workload.provider(provider)
        call = calls(function, workload.arguments, direction)
        workload.check(call(), direction, provider)
        case |= {"gate": "passed", "peak_bytes": peak_bytes(call, DEVICE)}
        if benchmark.disabled:
            pytest.skip("timing is disabled")
        copies = min(math.ceil(COLD / case["bytes"]), 16) if ON_GPU else 1
        turns = [call, *(calls(function, _copy(workload.arguments), direction) for _ in range(copies - 1))]
        case |= _time(benchmark, turns)
        if ON_GPU:
            case |= _roofline(turns, case["bytes"], case["median_ms"])
        case["status"] = "measured"


def _time(benchmark: BenchmarkFixture, turns: list[Call]) -> dict[str, float]:
    """Time one call, in rounds that are long beside the synchronization at their ends; return median and spread."""
    turn = cycle(turns)

    def call() -> None:
        next(turn)()

    repeats = repeats_of(call, clock, len(turns))
    rounds = min(max(int(SPENT / (timed(call, clock, repeats) * repeats)), 3), 20)
    benchmark.pedantic(call, rounds=rounds, iterations=repeats)
    assert benchmark.stats is not None, "pedantic leaves statistics"
    stats = benchmark.stats.stats
    return {"median_ms": 1e3 * stats.median, "iqr_ms": 1e3 * stats.iqr, "rounds": rounds, "repeats": repeats}


def _roofline(turns: list[Call], fewest_bytes: int, median_ms: float) -> dict[str, float | None]:
    """Compare a call with the time that the GPU's memory needs to move the fewest bytes."""
    device_ms = _device_ms(turns) if median_ms < 1e3 * SHORTEST else None
    roofline_ms = 1e3 * fewest_bytes / bandwidth()
    return {
        "device_ms": device_ms,
        "roofline_ms": roofline_ms,
        "share_of_roofline": roofline_ms / (device_ms or median_ms),
    }


def _device_ms(turns: list[Call]) -> float:
    """Measure the median of one call on the GPU alone.

    The GPU sleeps until the host, which is slower than small kernels, has queued all of them.
    """
    turns = turns * math.ceil(8 / len(turns))
    times = []
    for _ in range(10):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(40_000_000)  # cycles, about 20 ms
        start.record()
        for call in turns:
            call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / len(turns))
    return statistics.median(times)


def _copy(arguments: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in arguments)


def _was_measured(case: Json) -> bool:
    """Whether the record says so, of an earlier process."""
    path = Path(os.environ.get("INVERSEFORM_BENCH_CASES", ""))
    lines = path.read_text().splitlines() if path.is_file() else []
    return any(old["status"] == "measured" and case.items() <= old.items() for old in map(json.loads, lines))


@contextmanager
def recorded(case: Json) -> Iterator[None]:
    """Append the case to the record, even if it fails."""
    case |= dict.fromkeys(("dtype", "size", "bytes", "reason", "gate", "median_ms", "iqr_ms", "rounds", "repeats"))
    case |= dict.fromkeys(("device_ms", "roofline_ms", "share_of_roofline", "peak_bytes"))
    case["status"] = "failed"
    try:
        yield
    except (pytest.skip.Exception, ModuleNotFoundError) as error:
        case |= {"status": "skipped", "reason": str(error)}
        pytest.skip(str(error))
    except BaseException as error:
        case["reason"] = f"{type(error).__name__}: {error}"[:500]
        case["gate"] = case["gate"] or case["reason"]
        raise
    finally:
        if path := os.environ.get("INVERSEFORM_BENCH_CASES"):
            with open(path, "a") as file:
                file.write(json.dumps(case) + "\n")
