"""Measures the most memory that a call holds, as counted by PyTorch's own allocators, on CPUs as on GPUs."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

_CPU = 0  # a device type in the profiler's records


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes of tensors that the device holds at any time during the call, less those that it held before.

    On a CPU, tensors held before that the call frees do not count: the profiler does not know their size.
    """
    if device.type != "cuda":
        return _peak_on_a_cpu(call)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_a_cpu(call: Callable[[], object]) -> int:
    with _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        record.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [
        (event["ts"], event["args"]["Bytes"])
        for event in events
        if event.get("name") == "[memory]" and event["args"]["Device Type"] == _CPU
    ]
    held = peak = 0
    for _, change in sorted(changes):
        held += change
        peak = max(peak, held)
    return peak


@contextmanager
def _silent() -> Iterator[None]:
    """Hide what the profiler writes to stderr: that there is no GPU, and that tensors existed before it started."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
        warnings.simplefilter("ignore")
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def largest_batch(fits: Callable[[int], bool], limit: int = 4096) -> int:
    """The largest number up to ``limit`` that fits, if all smaller ones fit, too; 0 if 1 does not fit."""
    most, too_many = 0, 1
    while too_many <= limit and fits(too_many):
        most, too_many = too_many, 2 * too_many
    too_many = min(too_many, limit + 1)
    while too_many - most > 1:
        middle = (most + too_many) // 2
        if fits(middle):
            most = middle
        else:
            too_many = middle
    return most
