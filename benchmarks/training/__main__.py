"""``python -m benchmarks.training --out FILE.json`` measures what the loss costs in a training step.

It measures whole steps, the loss alone, the largest batch and how the loss scales, under every provider that the
machine can run. The file is written after each figure, so a stopped run loses nothing, and the next one continues it.
``make docs`` turns it into docs/measured/benchmarks.md. ``inverseform-fast bench`` measures one setting of your own.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.common import results
from benchmarks.common.machine import ON_GPU, machine
from benchmarks.common.results import Json
from benchmarks.training.goals import goals
from benchmarks.training.measure import measure
from benchmarks.training.plan import Plan, plan_of

SCHEMA = results.read(Path(__file__).with_name("schema.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to add the results to")
    parser.add_argument("--rounds", type=int, default=7, help="how often each provider is measured; they take turns")
    parser.add_argument("--threads", type=int, default=os.cpu_count() if ON_GPU else 1, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = plan_of(ON_GPU)
    try:
        result = begun(plan, options.out, options.rounds)
    except ValueError as error:
        parser.error(str(error))

    def save() -> None:
        results.check(SCHEMA, json.loads(json.dumps(result)))
        results.write(options.out, result)

    measure(plan, result, options.rounds, save)
    for goal in goals(result):
        found = "not measured" if goal.found is None else f"{goal.found:.3g}"
        print(f"{goal.text}: {found}, asked {goal.asked:.3g}")


def begun(plan: Plan, out: Path, rounds: int) -> Json:
    """Read what the file ``out`` has, if there is one, or begin a result.

    Raises:
        ValueError: the file comes from another machine, or another number of threads or rounds.
    """
    about = machine()
    result: Json = {"schema": SCHEMA["properties"]["schema"]["const"], "machine": about, "rounds": rounds}
    result |= {"steps": [], "scaling": []}
    result["largest"] = {"setting": asdict(plan.largest), "bytes": plan.memory, "batch": {}}
    if not out.exists():
        return result
    old = results.read(out)
    new_run, old_run = ((run["machine"]["device"], run["machine"]["threads"], run["rounds"]) for run in (result, old))
    if old_run != new_run:
        raise ValueError(f"out: {out} must have device, threads and rounds {new_run}, got {old_run}: name another file")
    return result | old | {"machine": about}


if __name__ == "__main__":
    main()
