"""``python -m benchmarks.distributed`` measures what a loss of the whole batch costs each of two processes.

Both processes compute the loss of their own images, forward and backward, without a process group and with one, in
turns. They start each call together. The file also says how many bytes a call exchanges, what the all-reduce takes
alone, and how many launches a group adds on a GPU, which is counted without one. ``make docs`` shows the result in
docs/design/distributed.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import launches
from benchmarks.common import paths, results
from benchmarks.common.machine import machine
from benchmarks.common.results import Json
from benchmarks.distributed.measure import CLASSES, CROP, IMAGES, LOSSES, PROCESSES, criterion_of, process, step
from inverseform_fast.whole_batch import COUNTS

SCHEMA = results.read(Path(__file__).with_name("schema.json"))
RESULTS = paths.RESULTS / "distributed_cpu.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    parser.add_argument("--rounds", type=int, default=40, help="how often each loss is measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(process, (Path(folder), options.rounds), PROCESSES)
        found = [results.read(Path(folder) / f"{rank}.json") for rank in range(PROCESSES)]
    result: Json = {
        "schema": SCHEMA["properties"]["schema"]["const"],
        "machine": machine(on_gpu=False),
        "setting": {"processes": PROCESSES, "images": IMAGES, "crop": list(CROP), "classes": CLASSES},
        "rounds": options.rounds,
        "processes": found,
        "launches": {name: added_launches(weights) for name, weights in LOSSES.items()},
    }
    results.check(SCHEMA, json.loads(json.dumps(result)))
    results.write(options.out, result)


def added_launches(weights: dict[str, Any]) -> Json:
    """Count the launches of a step on a GPU, of an image alone and of one that is a part of a batch."""
    logits = torch.zeros(1, CLASSES, 64, 128, dtype=torch.bfloat16, device="meta").requires_grad_()
    labels = torch.zeros(1, 256, 512, dtype=torch.int64, device="meta")
    counts = torch.zeros(COUNTS, dtype=torch.float64, device="meta")
    criterion = criterion_of(weights, None)
    found = {}
    for name, given in (("without", None), ("with", counts)):
        with launches.gpu() as device:
            for _ in range(2):  # the first step makes constants
                book = device.write(partial(step, criterion, logits, labels, given))
        found[name] = len(book.launches) + len(book.aten)
    return found


if __name__ == "__main__":
    main()
