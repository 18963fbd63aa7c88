"""The benchmark of loading: a measurement follows its schema, and made files are read as the scenes that they show."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from benchmarks.common import results
from benchmarks.loading.__main__ import RESULTS, SCHEMA, configs
from benchmarks.loading.measure import measured, write_nyud
from benchmarks.pages import loading
from inverseform_fast.segmentation.datasets import Scenes, build_dataset

COMMITTED = results.read(RESULTS)
TASKS = ["semantic", "depth", "normals", "edges"]


def test_the_committed_result_follows_the_schema_and_has_every_case() -> None:
    results.check(SCHEMA, COMMITTED)
    assert list(COMMITTED["cases"]) == list(configs("NYUD"))


def test_made_files_are_read_as_the_scenes_that_they_show(tmp_path: Path) -> None:
    write_nyud(tmp_path, (40, 56), 2)
    scenes = Scenes("train", (40, 56), 2, tasks=TASKS)
    dataset = build_dataset("nyud_mt", "train", tmp_path, tasks=TASKS)
    for index in range(2):
        found, expected = dataset.read(index), scenes.read(index)
        assert (found["image"].float() - expected["image"].float()).abs().mean() < 10  # JPEG
        for name in TASKS:
            torch.testing.assert_close(found[name].float(), expected[name].float(), rtol=0, atol=1e-6)


def test_a_measurement_follows_the_schema_and_is_shown() -> None:
    name = "`scenes`, classes"
    config = dataclasses.replace(configs("NYUD")[name], data_options={"length": 2, "size": [48, 64]}, crop=(32, 48))
    case = measured(config, rounds=2)
    result = json.loads(json.dumps(COMMITTED | {"cases": {name: case}}))
    results.check(SCHEMA, result)
    case["image_cpu_ms"] = {"read": {"median": 2.0, "iqr": 0.0}, "augment": {"median": 6.0, "iqr": 1.0}}
    case["steps"]["0"] |= {"step_cpu_ms": {"median": 320.0, "iqr": 0.0}}
    for times, wait in zip(case["steps"].values(), (25.0, 5.0), strict=True):
        times |= {"wait_ms": {"median": wait, "iqr": 0.0}, "step_ms": {"median": 75.0, "iqr": 0.0}}
    row = loading.loading(COMMITTED | {"cases": {name: case}}).splitlines()[2]
    assert row.endswith("| 2.0 ± 0.0 | 6.0 ± 1.0 | 125 | 40 | 0.200 | 25.0% | 6.2% |")
