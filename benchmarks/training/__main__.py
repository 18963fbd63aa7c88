"""What the loss costs in a training step: ``python -m benchmarks.training --out FILE.json``.

Whole steps, the loss alone, the largest batch and how the loss scales, under every provider that the machine can run.
The file is written after each figure, so that what is stopped loses nothing, and goes on where it was stopped. ``make
docs`` turns it into docs/measured/benchmarks.md. One setting of your own: ``inverseform-fast bench``.
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
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results, which are added to")
    parser.add_argument("--rounds", type=int, default=7, help="turns that each provider takes")
    parser.add_argument("--threads", type=int, default=os.cpu_count() if ON_GPU else 1)
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
    """What the file ``out`` has, if there is one, or nothing yet.

    Raises:
        ValueError: the file is of another machine or number of rounds.
    """
    about = machine()
    result: Json = {"schema": SCHEMA["properties"]["schema"]["const"], "machine": about, "rounds": rounds}
    result |= {"steps": [], "scaling": []}
    result["largest"] = {"setting": asdict(plan.largest), "bytes": plan.memory, "batch": {}}
    if not out.exists():
        return result
    old = results.read(out)
    now, was = ((each["machine"]["device"], each["machine"]["threads"], each["rounds"]) for each in (result, old))
    if was != now:
        raise ValueError(f"out: {out} is of device, threads and rounds {was}, now {now}: name another file")
    return result | old | {"machine": about}


if __name__ == "__main__":
    main()
