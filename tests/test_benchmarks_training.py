"""benchmarks/training saves each figure, continues where it was stopped, and judges goals; nothing is measured here."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import fastjsonschema
import numpy as np
import pytest
import torch

from benchmarks.common import results
from benchmarks.common.results import Json
from benchmarks.training import __main__ as training
from benchmarks.training import measure
from benchmarks.training import plan as plans
from benchmarks.training.goals import fitted, goals
from benchmarks.training.plan import Plan, plan_of
from inverseform_fast.bench.setting import Setting
from inverseform_fast.segmentation.models import build_model
from inverseform_fast.segmentation.tasks import SemanticTask

MIB = 2**20
TINY = Setting(crop=(64, 64), classes=5)


class Program:
    """The program with a tiny plan and made-up figures; it knows its file, and lists what it measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.monkeypatch, self.path = monkeypatch, path
        self.measured: list[tuple[str, Setting]] = []
        plan = Plan(
            settings={"512 x 1024": TINY, "headless": replace(TINY, headless=True)},
            scaled=TINY,
            batches=(1, 2),
            crops=((64, 64), (64, 96)),
            memory=4 * MIB,
            largest=TINY,
            slow=("reference",),
        )
        monkeypatch.setattr(plans, "CLASSES", (2, 5))
        monkeypatch.setattr(plans, "TILES", ((224, 224), (224, 448)))
        monkeypatch.setattr(measure, "PROVIDERS", ("stock", "reference"))
        monkeypatch.setattr(training, "plan_of", lambda on_gpu: plan)
        monkeypatch.setattr(measure, "compare_losses", self.compare_losses)
        monkeypatch.setattr(measure, "compare_steps", self.compare_steps)
        monkeypatch.setattr(measure, "largest", self.largest)

    def compare_losses(self, setting: Setting, providers: Sequence[str], rounds: int) -> list[Json]:
        self.measured.append(("losses", setting))
        return [
            {"provider": name, "status": "measured", "ms": 2.0, "iqr_ms": 0.5, "peak_bytes": 7, "targets_ms": 0.0}
            for name in providers
        ]

    def compare_steps(self, setting: Setting, providers: Sequence[str], rounds: int) -> list[Json]:
        self.measured.append(("steps", setting))
        return [{"provider": name, "status": "measured", "ms": 5.0, "iqr_ms": 0.5} for name in providers]

    def largest(self, setting: Setting, provider: str, limit: int | None) -> int:
        assert (setting, provider, limit) == (TINY, "stock", 4 * MIB)
        self.measured.append(("largest", setting))
        return 3

    def run(self, stop_after: float = math.inf, rounds: int = 1) -> Json:
        """Runs the program until it has saved so often; returns what the file holds."""
        self.measured.clear()
        saves, write = 0, results.write

        def saved(path: Path, result: object) -> None:
            nonlocal saves
            write(path, result)
            saves += 1
            if saves >= stop_after:
                raise KeyboardInterrupt

        with self.monkeypatch.context() as patch:
            patch.setattr(results, "write", saved)
            patch.setattr(sys, "argv", ["-", "--out", str(self.path), "--rounds", str(rounds), "--threads", "1"])
            training.main()
        return results.read(self.path)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Program:
    return Program(monkeypatch, tmp_path / "training.json")


def test_the_program_saves_each_figure_and_goes_on_where_it_was_stopped(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        program.run(stop_after=4)
    first = results.read(program.path)
    assert len(program.measured) == 2 * 2 + 2
    fastjsonschema.validate(training.SCHEMA, first)
    assert (len(first["steps"]), len(first["scaling"]), first["largest"]["batch"]) == (2, 2, {})

    result = program.run()
    # Two points of each of the four axes, the largest batch, and at last the slow provider in the first setting.
    assert len(program.measured) == 2 * 4 - 2 + 1 + 2
    assert program.measured[-2:] == [("losses", TINY), ("steps", TINY)]
    fastjsonschema.validate(training.SCHEMA, result)
    assert result["steps"][1] == first["steps"][1]
    assert [row["provider"] for row in first["steps"][0]["steps"]] == ["stock"]
    assert result["scaling"][:2] == first["scaling"]
    assert [(point["axis"], point["x"]) for point in result["scaling"]] == [
        *(("images", 1), ("images", 2), ("megapixels", 0.004096), ("megapixels", 0.006144)),
        *(("classes", 2), ("classes", 5), ("tiles", 1), ("tiles", 2)),
    ]
    assert all(point["ms"] == {"stock": 2.0} for point in result["scaling"])
    assert result["scaling"][-1]["setting"] == first["scaling"][0]["setting"] | {"resize": [224, 448]}
    rows = [row for step in result["steps"] for row in step["steps"] + step["losses"]]
    assert [row["provider"] for row in rows] == [*["stock", "reference"] * 2, "stock", "stock"]  # the slow one once
    assert result["largest"]["batch"] == {"stock": 3}  # not of the slow one
    assert "the release's with its targets: not measured, asked 0.2" in capsys.readouterr().out

    assert program.run() == result
    assert program.measured == []


def test_a_step_of_a_wrong_loss_is_no_measurement(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = "wrong: 2, the reference has 1"
    monkeypatch.setattr(measure, "compare_losses", lambda *_: [{"provider": "stock", "status": wrong}])
    monkeypatch.setattr(measure, "PROVIDERS", ("stock",))
    (row,) = program.run()["steps"][0]["steps"]
    assert row["status"] == wrong


def test_another_machine_or_other_rounds_need_another_file(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    before = program.run()
    with pytest.raises(SystemExit):
        program.run(rounds=99)
    assert "name another file" in capsys.readouterr().err
    assert results.read(program.path) == before


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_a_fitted_line_is_that_of_least_squares(noise: float) -> None:
    x = [1.0, 2.0, 4.0, 8.0]
    ms = [5 + 0.25 * position + noise * sign for position, sign in zip(x, (1, -1, 1, -1), strict=True)]
    line = fitted(x, ms)
    assert line["r2"] == pytest.approx(np.corrcoef(x, ms)[0, 1] ** 2)
    if not noise:
        assert line == pytest.approx({"fixed_ms": 5, "ms_per_unit": 0.25, "r2": 1})


def figures(bandwidth: float | None, **settings: dict[str, Json]) -> Json:
    """Makes up a result: each setting has rows ``provider: figures``, the same for steps and losses."""
    rows = {
        name: [{"provider": provider, "status": "measured"} | row for provider, row in setting.items()]
        for name, setting in settings.items()
    }
    return {
        "machine": {"bandwidth_bytes_per_s": bandwidth},
        "steps": [{"name": name, "steps": providers, "losses": providers} for name, providers in rows.items()],
    }


@pytest.mark.parametrize(
    ("ours", "found"),
    [
        ({"compiled": {"ms": 10.0}}, 0.1),
        ({"compiled": {"ms": 20.0}}, 0.2),  # as much as was asked is met
        ({"compiled": {"ms": 30.0}, "fused": {"status": "cannot run here"}}, 0.3),
        ({"compiled": {"ms": 30.0}, "fused": {"ms": 5.0}}, 0.05),
        ({"compiled": {"ms": 1.0, "status": "wrong: 1, the reference has 2"}}, None),
        ({}, None),
    ],
)
def test_goal_of_a_cpu(ours: dict[str, Json], found: float | None) -> None:
    result = figures(None, **{"512 x 1024": {"release": {"ms": 40.0, "targets_ms": 60.0}} | ours})
    goal, alone = goals(result)
    assert goal.asked == alone.asked == 0.2
    assert alone.found == (found if found is None else pytest.approx(found * 100 / 40))
    assert goal.found == (found if found is None else pytest.approx(found))
    assert goal.met == (found is not None and found <= 0.2)


def test_goals_of_a_gpu() -> None:
    stock, fused = {"ms": 10.0, "peak_bytes": 400, "targets_ms": 0}, {"ms": 6.0, "peak_bytes": 100, "targets_ms": 0}
    rows = {"stock": stock, "fused": fused, "release": {"ms": 20.0, "peak_bytes": 900, "targets_ms": 1000.0}}
    other = {"stock": stock, "fused": fused | {"ms": 12.0}}

    def judged(**settings: dict[str, Json]) -> list[tuple[float, float | None, bool]]:
        return [(goal.asked, goal.found, goal.met) for goal in goals(figures(4e12, **settings))]

    own, to_release = (
        [(0.5, 0.6, False), (0.25, 0.25, True)],
        [(0.05, pytest.approx(6 / 1020), True), (0.05, 0.3, False)],
    )
    names = plan_of(True).settings
    every = dict.fromkeys(names, rows)
    assert judged(**every) == [*own, (1.0, 0.6, True), *to_release]
    assert judged(**every | {"headless": other}) == [*own, (1.0, 1.2, False), *to_release]  # the slowest of all counts
    assert judged(hrnet_w18=rows) == [*own, (1.0, None, False), *to_release]  # the slowest is not known
    assert judged(headless=rows)[:2] == [(0.5, None, False), (0.25, None, False)]
    broken = rows | {"fused": {"status": "out of memory"}}
    assert judged(**dict.fromkeys(names, broken)) == [(asked, None, False) for asked in (0.5, 0.25, 1.0, 0.05, 0.05)]
    assert judged(**every | {"headless": broken}) == [*own, (1.0, None, False), *to_release]


@pytest.mark.parametrize("on_gpu", [True, False])
def test_every_model_of_the_plan_can_be_built(on_gpu: bool) -> None:
    tasks = {"semantic": SemanticTask(classes=("road", "car"))}
    for model, backbone in {(setting.model, setting.backbone) for setting in plan_of(on_gpu).settings.values()}:
        with torch.device("meta"):
            assert build_model(model, backbone, tasks).heads


@pytest.mark.parametrize("on_gpu", [True, False])
def test_the_plan_varies_model_size_classes_and_head(on_gpu: bool) -> None:
    plan = plan_of(on_gpu)
    settings = plan.settings.values()
    backbones = {setting.backbone for setting in settings}
    assert backbones >= ({"hrnet_w18", "hrnet_w48"} if on_gpu else {"hrnet_w18"})
    assert {setting.model for setting in settings} == {"pyramid", "segformer"}
    assert {setting.crop for setting in settings} >= {(512, 1024), (480, 480)} | ({(1024, 2048)} if on_gpu else set())
    assert {setting.classes for setting in settings} == {11, 19, 40, 150}
    assert {setting.headless for setting in settings} == {False, True}
    assert {setting.amp for setting in (*settings, plan.scaled)} == {"bf16" if on_gpu else "none"}
    assert {setting.device for setting in (*settings, plan.scaled)} == {"cuda" if on_gpu else "cpu"}
    assert (plan.memory is None) == on_gpu
    assert plan.scaled.headless is False

    base = plan.scaled
    changed: dict[str, list[float]] = {}
    for axis, x, setting in plan.scaling():  # one thing at a time
        changed.setdefault(axis, []).append(x)
        kept = {"images": "batch_size", "megapixels": "crop", "classes": "classes", "tiles": "resize"}[axis]
        assert replace(setting, **{kept: getattr(base, kept)}) == base
    assert list(changed) == ["images", "megapixels", "classes", "tiles"]
    assert all(len(x) >= 3 and x == sorted(set(x)) for x in changed.values())
    assert changed["classes"] == [11, 19, 40, 150]
