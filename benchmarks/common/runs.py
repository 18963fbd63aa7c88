"""Trainings of a study in a JSON file that grows: each has a stage, a label, a seed and metrics."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

from benchmarks.common import results
from benchmarks.common.results import Json
from inverseform_fast.files import write_atomically


def key_of(run: Json) -> tuple[str, str, int]:
    return run["stage"], run["label"], run["seed"]


def score(run: Json) -> float:
    """What a choice is made by: mean of mIoU, mBA and boundary F at 3 px."""
    return statistics.mean(run["metrics"][name] for name in ("miou", "mba", "boundary_f_3px"))


def rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def load(path: Path) -> list[Json]:
    return results.read(path)["runs"] if path.exists() else []


def write(path: Path, schema: str, runs: list[Json], machine: Json) -> None:
    """Add to what the file has, which another process may have added to. One line a run: a diff shows the new ones."""
    merged = {key_of(run): run for run in [*load(path), *runs]}
    lines = ",\n".join(json.dumps(merged[key]) for key in sorted(merged))
    text = f'{{"schema": "{schema}", "machine": {json.dumps(machine)}, "runs": [\n{lines}\n]}}\n'
    write_atomically(path, lambda file: file.write(text.encode()))
