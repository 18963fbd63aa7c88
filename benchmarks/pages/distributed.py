"""The table of what a loss of the whole batch costs, from ``benchmarks/results/distributed_cpu.json``."""

from __future__ import annotations

from pathlib import Path

from benchmarks.common import results
from benchmarks.common.markdown import rows_table
from benchmarks.common.results import Json

SOURCE = "benchmarks/results/distributed_cpu.json"


def parts(root: Path) -> dict[str, str]:
    """The parts of docs/design/distributed.md."""
    return {"overhead": overhead(results.read(root / SOURCE))}


def overhead(result: Json) -> str:
    head = ["loss", "process", "clock", "without, ms", "with, ms", "difference, ms", "bytes", "launches on a GPU"]
    rows = []
    for rank, process in enumerate(result["processes"]):
        for name, loss in process["losses"].items():
            counted = "{without} to {with}".format(**result["launches"][name])
            for clock, times in (("CPU time", loss["cpu_ms"]), ("wall", loss["ms"])):
                ms = (_spread(times[way]) for way in ("without", "with", "difference"))
                rows.append([name, str(rank), clock, *ms, str(loss["bytes"]["with"]), counted])
    alone = ", ".join(_spread(process["all_reduce_ms"]) for process in result["processes"])
    setting, about = result["setting"], result["machine"]
    height, width = setting["crop"]
    return f"""{rows_table(head, sorted(rows), names=3)}
Median ± interquartile range of {result["rounds"]} rounds. Each process has {setting["images"]} images of
{height} x {width}, {setting["classes"]} classes, logits at a quarter of the resolution, and one thread of
{about["device"]}. The launches are counted without a GPU, and leave out the all-reduce. The all-reduce alone takes
{alone} ms (gloo). Measured at commit
{about["commit"]} with torch {about["versions"]["torch"]}.
"""


def _spread(values: Json) -> str:
    return f"{values['median']:.2f} ± {values['iqr']:.2f}"
