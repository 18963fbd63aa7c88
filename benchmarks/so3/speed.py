"""``python -m benchmarks.so3.speed --out FILE.json`` times geodesic_distance and its peers on one CPU thread.

All take turns in one run, so that other work on the machine slows all of them alike. A time is the median over the
turns, of distance and gradient together; ``svd`` is torch.linalg.svd of the same matrices M, and nothing else. On a
machine with a GPU, hide it by ``CUDA_VISIBLE_DEVICES=``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.common import results
from benchmarks.common.machine import machine
from benchmarks.common.results import Json
from benchmarks.ops import bench_so3
from benchmarks.ops.workload import Workload, calls
from inverseform_fast.bench.timing import clock_of, in_turns, spread, timed

clock = clock_of(torch.device("cpu"))
CASES = ("float32-near", "float32-near-pair", "float32-far", "float64-near")
DEMANDS = [
    ("fused", "naive", 15),
    ("fused", "roma", 15),
    ("fused-scalar", "svd", 3),
]  # provider, peer, how many times faster it must be


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--size", type=int, default=10**5, help="matrices in a call")
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    times = {case: measured(case, options.size, options.turns) for case in CASES}
    demands = [demand(case, times[case], *required) for case in CASES for required in DEMANDS]
    about = machine(on_gpu=False) | {"instructions": torch.backends.cpu.get_cpu_capability(), "threads": 1}
    sizes = {"matrices": options.size, "turns": options.turns}
    result = {"machine": about, **sizes, "ns_per_matrix": times, "demands": demands}
    results.write(options.out, result)
    print(json.dumps(result, indent=1))


def demand(case: str, times: Json, provider: str, peer: str, at_least: float) -> Json:
    ratio = times[peer]["median_ns"] / times[provider]["median_ns"]
    met = ratio >= at_least
    return {"case": case, "provider": provider, "peer": peer, "at_least": at_least, "ratio": ratio, "met": met}


def measured(case: str, size: int, turns: int) -> Json:
    """Measure median and interquartile range of each provider, in ns per matrix."""
    dtype, kind, *pair = case.split("-")
    name = "-".join([dtype, kind, str(size)])
    distance, projection = bench_so3.workload("-".join([name, *pair])), bench_so3.projection(name)
    ready = {p: prepared(distance, p, "both") for p in bench_so3.PROVIDERS}
    ready["svd"] = prepared(projection, "svd", "forward")

    def seconds(provider: str) -> float:
        with bench_so3.running(provider):
            return timed(ready[provider], clock)

    times = in_turns({provider: partial(seconds, provider) for provider in ready}, turns)
    return {provider: nanoseconds([1e9 * sample / size for sample in samples]) for provider, samples in times.items()}


def prepared(workload: Workload, provider: str, direction: str) -> Callable[[], object]:
    """Return the call of one pass, after its results have been checked."""
    with bench_so3.running(provider):
        call = calls(workload.provider(provider), workload.arguments, direction)
        workload.check(call(), direction, provider)
    return call


def nanoseconds(samples: list[float]) -> Json:
    median, iqr = spread(samples)
    return {"median_ns": median, "iqr_ns": iqr, "min_ns": min(samples)}


if __name__ == "__main__":
    main()
