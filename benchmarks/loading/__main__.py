"""``python -m benchmarks.loading`` measures what loading data takes beside a step of the training.

One process trains on one thread. It loads the data itself, or two others do. The files of NYU-Depth-v2 are made
ones of the true size, so no data set is needed. ``make docs`` shows the result in docs/measured/loading.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import paths, results
from benchmarks.common.machine import machine
from benchmarks.common.results import Json
from benchmarks.loading.measure import measured, write_nyud
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.reproduce import recipe_config

SCHEMA = results.read(Path(__file__).with_name("schema.json"))
RESULTS = paths.RESULTS / "loading_cpu.json"
SIZE, IMAGES = (425, 560), 8  # of NYU-Depth-v2's files, which training enlarges to 480 x 640
BATCH = 2  # a CPU takes long for the recipe's eight


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    parser.add_argument("--rounds", type=int, default=7, help="steps that are measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        write_nyud(Path(root), SIZE, IMAGES)
        cases = {name: measured(config, options.rounds) for name, config in configs(root).items()}
    result: Json = {
        "schema": SCHEMA["properties"]["schema"]["const"],
        "machine": machine(on_gpu=False),
        "rounds": options.rounds,
        "cases": cases,
    }
    results.check(SCHEMA, json.loads(json.dumps(result)))
    results.write(options.out, result)


def configs(root: str) -> dict[str, TrainConfig]:
    """The trainings that are measured, by name; ``root`` has the files of NYU-Depth-v2."""
    common: dict[str, Any] = {"threads": 1, "device": "cpu"}
    recipe = dataclasses.replace(recipe_config("table1", "mti_net_sden_inverseform"), pretrained=False)
    six = {"length": IMAGES, "tasks": ["semantic", "parts", "edges", "saliency", "normals", "depth"]}
    return {
        "`nyud_mt`, four tasks": dataclasses.replace(recipe, root=root, batch_size=BATCH, **common),
        "`scenes`, classes": TrainConfig(data_options={"length": IMAGES}, **common),
        "`scenes`, six tasks": TrainConfig(data_options=six, **common),
    }


if __name__ == "__main__":
    main()
