"""The tables of predicted times in docs/design/triton.md, from ``benchmarks/results/predicted_times.json``."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import results
from benchmarks.common.markdown import rows_table
from benchmarks.common.results import Json

PIPES = {  # what the pipes of benchmarks/compiled/sass.py do
    "issue": "all instructions",
    "fma": "floats",
    "imad": "integer products",
    "alu": "integers and comparisons",
    "xu": "exponentials",
    "fp64": "float64",
    "lsu": "loads and stores",
    "tensor": "tensor cores",
    "memory": "memory",
}
LOSSES = {
    "default": "the default loss",
    "channels_last": "the default loss, channels_last logits",
    "paper": "the paper's loss, with a head",
    "stock": "stock cross-entropy",
}


class Total(NamedTuple):
    """All launches of a kernel in a step."""

    launches: int
    us: float
    parts: dict[str, float]  # microseconds of each pipe and of the memory

    @property
    def busiest(self) -> str:
        return max(self.parts, key=lambda pipe: self.parts[pipe])


def parts(root: Path) -> dict[str, str]:
    """The parts of docs/design/triton.md."""
    result = results.read(root / "benchmarks/results/predicted_times.json")
    texts = [_steps(result)]
    texts += [f"Kernels of {LOSSES[loss]}:\n\n{_kernels(result, loss)}" for loss in ("default", "paper")]
    return {"predictions": "\n".join(texts)}


def _steps(result: Json) -> str:
    head = ["step", "loss", "launches of Triton", "of PyTorch", "Triton, ms", "PyTorch, ms", "sum, ms", "x stock"]
    stock = {_size(step): _milliseconds(result, step) for step in result["steps"] if step["loss"] == "stock"}
    lines = []
    for step in result["steps"]:
        triton, aten = _milliseconds(result, step)
        launches = sum(launch["launches"] for launch in step["launches"])
        cells = [str(launches), str(step["aten"]["launches"]), f"{triton:.2f}", f"{aten:.2f}", f"{triton + aten:.2f}"]
        cells += [f"{(triton + aten) / sum(stock[_size(step)]):.2f}"]
        lines.append([_size(step), LOSSES[step["loss"]], *cells])
    return rows_table(head, lines)


def _milliseconds(result: Json, step: Json) -> tuple[float, float]:
    """Of the Triton kernels, and of PyTorch's own."""
    return sum(total.us for total in _totals(result, step).values()) / 1e3, step["aten"]["us"] / 1e3


def _kernels(result: Json, loss: str) -> str:
    steps = [step for step in result["steps"] if step["loss"] == loss]
    totals = [_totals(result, step) for step in steps]
    first, columns = totals[0], [f"{_size(step)}, us" for step in steps]
    lines = []
    for kernel, total in first.items():
        times = [_number(each[kernel].us) for each in totals]
        roofline = f"{100 * total.parts['memory'] / total.us:.0f} %"
        lines.append([f"`{kernel}`", str(total.launches), *times, PIPES[total.busiest], roofline])
    return rows_table(["kernel", "launches", *columns, "busiest", "share of the roofline"], lines, names=1)


def _number(us: float) -> str:
    return f"{us:.0f}" if us >= 100 else f"{us:.2g}"


def _totals(result: Json, step: Json) -> dict[str, Total]:
    """Add up the launches of each kernel of a step."""
    found: dict[str, Total] = {}
    for launch in step["launches"]:
        kernel = result["codes"][launch["code"]]["kernel"]
        count, us = launch["launches"], launch["us"]
        total = found.get(kernel, Total(0, 0.0, defaultdict(float)))
        for pipe, busy in us.items():
            total.parts[pipe] += count * busy
        found[kernel] = Total(total.launches + count, total.us + count * max(us.values()), total.parts)
    return found


def _size(step: Json) -> str:
    size = step["size"]
    return f"{size['images']} x {size['height']}x{size['width']}, {size['classes']} classes"
