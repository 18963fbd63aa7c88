"""benchmarks/bench_training.py: it saves each figure, goes on where it was stopped, and judges its goals."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastjsonschema
import numpy as np
import pytest

from benchmarks import bench_training
from inverseform_fast.bench.measure import largest
from inverseform_fast.bench.steps import Setting

MIB = 2**20
TINY = Setting(crop=(64, 64), classes=5)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Any, list[str]]]:
    """Runs bench_training's main on a tiny plan: the file that it wrote, if any, and what it measured."""
    path, calls = tmp_path / "training.json", []
    plan = bench_training.Plan(
        settings={"512 x 1024": TINY, "headless": replace(TINY, headless=True)},
        scaled=TINY,
        batches=(1, 2),
        crops=((64, 64), (64, 96)),
        memory=4 * MIB,
        largest=TINY,
        slow=("reference",),
    )
    monkeypatch.setattr(bench_training, "CLASSES", (2, 5))
    monkeypatch.setattr(bench_training, "TILES", ((224, 224), (224, 448)))
    monkeypatch.setattr(bench_training, "PROVIDERS", ("stock", "reference"))
    monkeypatch.setattr(bench_training, "plan_of", lambda on_gpu: plan)
    for name in ("compare_losses", "compare_steps", "largest"):
        function = getattr(bench_training, name)

        def counted(setting: Setting, *args: Any, name: str = name, function: Any = function) -> Any:
            calls.append(f"{name} {setting} {args[0]}")
            return function(setting, *args)

        monkeypatch.setattr(bench_training, name, counted)

    def run(stop_after: float = math.inf) -> tuple[Any, list[str]]:
        calls.clear()
        saves, write = 0, bench_training.write_atomically

        def saved(*args: Any) -> None:
            nonlocal saves
            write(*args)
            saves += 1
            if saves >= stop_after:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(bench_training, "write_atomically", saved)
            patch.setattr(sys, "argv", ["bench_training", "--out", str(path), "--rounds", "1", "--threads", "1"])
            bench_training.main()
        return json.loads(path.read_text()), list(calls)

    run.path, run.calls = path, calls
    return run


def test_the_program_saves_each_figure_and_goes_on_where_it_was_stopped(
    program: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        program(stop_after=4)
    first, before = json.loads(program.path.read_text()), list(program.calls)
    fastjsonschema.validate(bench_training.SCHEMA, first)
    assert (len(first["steps"]), len(first["scaling"]), first["largest"]["batch"]) == (2, 2, {})

    result, after = program()
    fastjsonschema.validate(bench_training.SCHEMA, result)
    assert len(before) == 2 * 2 + 2
    assert len(after) == 2 * 4 - 2 + 1  # two points of each of the four axes, and the largest batch
    assert result["steps"] == first["steps"]
    assert result["scaling"][:2] == first["scaling"]
    assert [(point["axis"], point["x"]) for point in result["scaling"]] == [
        *(("images", 1), ("images", 2), ("megapixels", 0.004096), ("megapixels", 0.006144)),
        *(("classes", 2), ("classes", 5), ("tiles", 1), ("tiles", 2)),
    ]
    assert all(list(point["ms"]) == ["stock"] and point["ms"]["stock"] > 0 for point in result["scaling"])
    assert result["scaling"][-1]["setting"] == first["scaling"][0]["setting"] | {"resize": [224, 448]}
    rows = [row for step in result["steps"] for row in step["steps"] + step["losses"]]
    assert [row["provider"] for row in rows] == [*["stock", "reference"] * 2, "stock", "stock"]  # the slow one once
    assert {row["status"] for row in rows} == {"measured"}
    assert list(result["largest"]["batch"]) == ["stock"]  # not of the slow one
    assert result["largest"]["batch"]["stock"] == largest(TINY, "stock", 4 * MIB)
    assert "to the release's with its targets: not measured, asked 0.2" in capsys.readouterr().out

    again, nothing = program()
    assert nothing == []
    assert again == result


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_fitted(noise: float) -> None:
    x = [1.0, 2.0, 4.0, 8.0]
    ms = [5 + 0.25 * each + noise * sign for each, sign in zip(x, (1, -1, 1, -1), strict=True)]
    line = bench_training.fitted(x, ms)
    assert line["r2"] == pytest.approx(np.corrcoef(x, ms)[0, 1] ** 2)
    if not noise:
        assert line == pytest.approx({"fixed_ms": 5, "ms_per_unit": 0.25, "r2": 1})


def figures(bandwidth: float | None, **settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A result of settings, each of which has rows ``provider: figures`` for steps and losses alike."""
    rows = {
        name: [{"provider": provider, "status": "measured"} | row for provider, row in setting.items()]
        for name, setting in settings.items()
    }
    return {
        "machine": {"bandwidth_bytes_per_s": bandwidth},
        "steps": [{"name": name, "steps": each, "losses": each} for name, each in rows.items()],
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
def test_goal_of_a_cpu(ours: dict[str, dict[str, Any]], found: float | None) -> None:
    result = figures(None, **{"512 x 1024": {"release": {"ms": 40.0, "targets_ms": 60.0}} | ours})
    goal, alone = bench_training.goals(result)
    assert goal["asked"] == alone["asked"] == 0.2
    assert alone["found"] == (found if found is None else pytest.approx(found * 100 / 40))
    assert goal["found"] == (found if found is None else pytest.approx(found))
    assert goal["met"] == (found is not None and found <= 0.2)


def test_goals_of_a_gpu() -> None:
    stock, fused = {"ms": 10.0, "peak_bytes": 400, "targets_ms": 0}, {"ms": 6.0, "peak_bytes": 100, "targets_ms": 0}
    rows = {"stock": stock, "fused": fused, "release": {"ms": 20.0, "peak_bytes": 900, "targets_ms": 1000.0}}
    other = {"stock": stock, "fused": fused | {"ms": 12.0}}

    def goals(**settings: dict[str, dict[str, Any]]) -> list[tuple[float, Any, bool]]:
        return [(g["asked"], g["found"], g["met"]) for g in bench_training.goals(figures(4e12, **settings))]

    own, to_release = (
        [(0.5, 0.6, False), (0.25, 0.25, True)],
        [(0.05, pytest.approx(6 / 1020), True), (0.05, 0.3, False)],
    )
    names = bench_training.plan_of(True).settings
    every = dict.fromkeys(names, rows)
    assert goals(**every) == [*own, (1.0, 0.6, True), *to_release]
    assert goals(**every | {"headless": other}) == [*own, (1.0, 1.2, False), *to_release]  # the slowest of all counts
    assert goals(hrnet_w18=rows) == [*own, (1.0, None, False), *to_release]  # the slowest is not known
    assert goals(headless=rows)[:2] == [(0.5, None, False), (0.25, None, False)]
    broken = rows | {"fused": {"status": "out of memory"}}
    assert goals(**dict.fromkeys(names, broken)) == [(asked, None, False) for asked in (0.5, 0.25, 1.0, 0.05, 0.05)]
    assert goals(**every | {"headless": broken}) == [*own, (1.0, None, False), *to_release]


def test_another_machine_or_other_rounds_need_another_file(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    program()
    result = json.loads(program.path.read_text())
    program.path.write_text(json.dumps(result | {"rounds": 99}))
    with pytest.raises(SystemExit):
        program()
    assert json.loads(program.path.read_text())["rounds"] == 99


@pytest.mark.parametrize("on_gpu", [True, False])
def test_plan(on_gpu: bool) -> None:
    plan = bench_training.plan_of(on_gpu)
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

    base, changed = plan.scaled, {}
    for axis, x, setting in plan.scaling():  # one thing at a time
        changed.setdefault(axis, []).append(x)
        kept = {"images": "batch_size", "megapixels": "crop", "classes": "classes", "tiles": "resize"}[axis]
        assert replace(setting, **{kept: getattr(base, kept)}) == base
    assert list(changed) == ["images", "megapixels", "classes", "tiles"]
    assert all(len(x) >= 3 and x == sorted(set(x)) for x in changed.values())
    assert changed["classes"] == [11, 19, 40, 150]
