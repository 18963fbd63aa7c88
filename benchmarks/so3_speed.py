"""geodesic_distance against its peers on one CPU thread: ``python -m benchmarks.so3_speed --out FILE.json``.

All take turns in one run, so that whatever else the machine does befalls them alike. Times are of distance and gradient
together, medians over the turns; ``svd`` is torch.linalg.svd of the same matrices M, and nothing else. Where there is a
GPU, hide it: ``CUDA_VISIBLE_DEVICES=``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import bench_so3, gpu, harness
from inverseform_fast.files import write_atomically

CASES = ("float32-near", "float32-near-pair", "float32-far", "float64-near")
DEMANDS = [("fused", "naive", 15), ("fused", "roma", 15), ("fused-scalar", "svd", 3)]  # provider, peer, times faster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--size", type=int, default=10**5, help="matrices in a call")
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    times = {case: measured(case, options.size, options.turns) for case in CASES}
    demands = [demand(case, times[case], *each) for case in CASES for each in DEMANDS]
    machine = gpu.machine() | {"device": cpu(), "instructions": torch.backends.cpu.get_cpu_capability(), "threads": 1}
    sizes = {"matrices": options.size, "turns": options.turns}
    result = {"machine": machine, **sizes, "ns_per_matrix": times, "demands": demands}
    write_atomically(options.out, lambda file: file.write(json.dumps(result, indent=1).encode()))
    print(json.dumps(result, indent=1))


def demand(case: str, times: dict[str, Any], provider: str, peer: str, at_least: float) -> dict[str, Any]:
    ratio = times[peer]["median_ns"] / times[provider]["median_ns"]
    met = ratio >= at_least
    return {"case": case, "provider": provider, "peer": peer, "at_least": at_least, "ratio": ratio, "met": met}


def measured(case: str, size: int, turns: int) -> dict[str, Any]:
    """Median and interquartile range of each provider, in ns a matrix."""
    dtype, kind, *pair = case.split("-")
    name = "-".join([dtype, kind, str(size)])
    distance, projection = bench_so3.workload("-".join([name, *pair])), bench_so3.projection(name)
    ready = {p: prepared(distance, p, "both") for p in bench_so3.PROVIDERS}
    ready["svd"] = prepared(projection, "svd", "forward")
    times: dict[str, list[float]] = {provider: [] for provider in ready}
    for _ in range(turns):
        for provider, call in ready.items():
            with bench_so3.running(provider):
                start = time.perf_counter()
                call()
                times[provider].append(1e9 * (time.perf_counter() - start) / size)
    return {provider: spread(samples) for provider, samples in times.items()}


def prepared(workload: harness.Workload, provider: str, direction: str) -> Callable[[], Any]:
    """The call, after the gate."""
    with bench_so3.running(provider):
        call = harness.calls(workload.provider(provider), workload.arguments, direction)
        workload.check(call(), direction, provider)
    return call


def spread(samples: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(samples, method="inclusive")
    return {"median_ns": median, "iqr_ns": high - low, "min_ns": min(samples)}


def cpu() -> str:
    """Its model, which ``platform`` leaves out on Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
