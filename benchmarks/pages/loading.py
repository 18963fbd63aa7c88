"""The table of what loading data takes beside a step, from ``benchmarks/results/loading_cpu.json``."""

from __future__ import annotations

from pathlib import Path

from benchmarks.common import results
from benchmarks.common.markdown import rows_table
from benchmarks.common.results import Json


def parts(root: Path) -> dict[str, str]:
    """The parts of docs/measured/loading.md."""
    return {"loading": loading(results.read(results.path_of(root, "loading", "cpu")))}


def loading(result: Json) -> str:
    head = ["data", "network, batch x height x width", "read, ms", "augment, ms", "images per second and process"]
    head += ["step, ms", "load / step", "waits, nobody helps", "waits, 2 processes load"]
    rows = []
    for name, case in result["cases"].items():
        setting, image = case["setting"], case["image_cpu_ms"]
        load = image["read"]["median"] + image["augment"]["median"]
        step = case["steps"]["0"]["step_cpu_ms"]["median"] / setting["batch_size"]
        network = f"`{setting['model']}` with `{setting['backbone']}`, "
        network += " x ".join(map(str, (setting["batch_size"], *setting["crop"])))
        cells = [f"{_spread(image['read'])}", f"{_spread(image['augment'])}", f"{1000 / load:.0f}", f"{step:.0f}"]
        waits = [f"{_waiting(case['steps'][workers]):.1%}" for workers in ("0", "2")]
        rows.append([name, network, *cells, f"{load / step:.3f}", *waits])
    about = result["machine"]
    return f"""{rows_table(head, rows)}
Median of {result["rounds"]} rounds (± interquartile range) on one thread of {about["device"]}, measured at commit
{about["commit"]} with torch {about["versions"]["torch"]}.
"""


def _waiting(times: Json) -> float:
    """The share of its time that a training waits for data."""
    wait, step = times["wait_ms"]["median"], times["step_ms"]["median"]
    return wait / (wait + step)


def _spread(values: Json) -> str:
    return f"{values['median']:.1f} ± {values['iqr']:.1f}"
