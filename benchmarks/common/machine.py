"""Every result says which machine, versions and commit its numbers come from."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.common.paths import ROOT
from benchmarks.common.results import Json
from inverseform_fast.bench.timing import clock_of, timed

PACKAGES = (
    *("torch", "triton", "numpy", "safetensors", "pytest", "pytest-benchmark", "pytest-timeout", "pytest-xdist"),
    *("hypothesis", "fastjsonschema", "scipy", "roma", "timm", "transformers", "torchvision", "tensorboard"),
)
ON_GPU = torch.cuda.is_available()
BANDWIDTH = {"H200": 4.3e12, "H100": 3.35e12}  # bytes per second: copied by an H200, nominal for an H100


def machine(on_gpu: bool = ON_GPU) -> Json:
    """Describe the machine, as every result does; print which packages are missing."""
    versions = {package: _version(package) for package in PACKAGES}
    missing = [package for package, found in versions.items() if found is None]
    print(f"missing: {', '.join(missing) or 'nothing'}", flush=True)
    return {
        "device": torch.cuda.get_device_name() if on_gpu else cpu(),
        "bandwidth_bytes_per_s": bandwidth() if on_gpu else None,
        "commit": _commit(),
        "versions": {"python": platform.python_version(), "CUDA": torch.version.cuda, **versions},
        "missing": missing,
        "threads": torch.get_num_threads(),
    }


def cpu() -> str:
    """Return the CPU's model, which ``platform`` leaves out on Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


@cache
def bandwidth() -> float:
    """Return the bytes per second between the GPU and its memory: known by its name, or measured by a large copy."""
    known = [rate for name, rate in BANDWIDTH.items() if name in torch.cuda.get_device_name()]
    if known:
        return known[0]
    device = torch.device("cuda")
    source = torch.ones(2**28, device=device)
    target = torch.empty_like(source)
    clock = clock_of(device)
    timed(lambda: target.copy_(source), clock, 3)  # warm up
    return 2 * source.nbytes / timed(lambda: target.copy_(source), clock, 10)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=ROOT, capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    return described.stdout.strip() or "unknown"
