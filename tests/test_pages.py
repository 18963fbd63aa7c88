"""The pages that show results are up to date, and a stale one is noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from benchmarks.common.markdown import filled
from benchmarks.common.paths import ROOT
from benchmarks.common.results import Json
from benchmarks.pages import build, cost, headless, ops, worth
from benchmarks.pages.cost_pictures import draw_scaling, draw_steps
from inverseform_fast.bench.steps import PHASES

SETTING = {
    "backbone": "b", "model": "pyramid", "crop": [64, 128], "classes": 19, "batch_size": 2, "amp": "none",
    "headless": False, "resize": None, "device": "cpu",
}  # fmt: skip


def test_nothing_is_stale() -> None:
    assert build.stale() == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the results and of the pages that show them."""
    for path in [*build.pages(), *(picture.path for picture in build.pictures())]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    shutil.copytree(ROOT / "benchmarks/results", tmp_path / "benchmarks/results")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        ("training_cpu.json", ["README.md", "docs/measured/benchmarks.md", "docs/measured/benchmarks_steps_cpu.png"]),
        ("camvid_study_cpu.json", ["docs/measured/results.md", "docs/measured/results_scores_cpu.png"]),
    ],
)
def test_other_results_make_pages_and_pictures_stale(root: Path, file: str, shown: list[str]) -> None:
    assert build.stale(root) == []
    path = root / "benchmarks/results" / file
    results = json.loads(path.read_text())
    if "steps" in results:
        results["steps"][0]["steps"][0]["ms"] *= 2
    else:
        next(run for run in results["runs"] if run["stage"] == "test")["metrics"]["miou"] += 0.1
    path.write_text(json.dumps(results))
    assert {root / name for name in shown} <= set(build.stale(root))


def test_a_picture_is_drawn_with_the_digest_of_its_results(root: Path) -> None:
    picture = next(candidate for candidate in build.pictures(root) if candidate.path.name == "results_scores_cpu.png")
    picture.path.unlink()
    assert picture.is_stale()
    picture.write()
    assert not picture.is_stale()
    with Image.open(picture.path) as image:
        assert image.width > 500


def test_a_page_without_the_marks() -> None:
    with pytest.raises(ValueError, match="the page must hold <!-- a: begin --> and <!-- a: end -->"):
        filled("<!-- a: begin -->", "a", "text")


def test_the_readme_stays_short() -> None:
    assert len(cost.summary(ROOT).splitlines()) <= 8
    assert len(headless.summary(ROOT).splitlines()) <= 8


def row(provider: str, ms: float, peak: int, **more: Any) -> Json:
    return {"provider": provider, "status": "measured", "ms": ms, "iqr_ms": 1.0, "peak_bytes": peak, **more}


@pytest.fixture
def result() -> Json:
    """A made-up result: ours is slower and smaller than stock, and faster than the release; fused cannot run."""
    phases: Json = {"phases_ms": dict.fromkeys(PHASES, 20.0), "images_per_second": 5.0}
    times = {"stock": (100.0, 4 << 20), "release": (800.0, 16 << 20), "reference": (150.0, 2 << 20)}
    fused = {"provider": "fused", "status": "cannot run here"}
    steps = [*(row(name, *spread, **phases) for name, spread in times.items()), fused]
    targets = {"stock": 0.0, "release": 200.0, "reference": 0.0}
    losses = [*(row(name, *spread, targets_ms=targets[name], value=1.0) for name, spread in times.items()), fused]
    points = [{"axis": "images", "x": n, "setting": SETTING, "ms": {"stock": 5 + 10 * n}} for n in (1, 2, 4)]
    machine = {"device": "a CPU", "threads": 1, "commit": "c", "versions": {"torch": "2"}, "missing": []}
    return {
        "machine": machine | {"bandwidth_bytes_per_s": None},
        "rounds": 3,
        "steps": [{"name": "512 x 1024", "setting": SETTING, "steps": steps, "losses": losses}],
        "scaling": points,
        "largest": {"setting": SETTING, "bytes": 2**30, "batch": {"stock": 10, "reference": 5}},
    }


def test_tables_of_costs(result: Json) -> None:
    name = "b, 2 x 64x128, 19 classes"
    steps, losses = (make(result, result["steps"]) for make in (cost.step_table, cost.loss_table))
    assert f"| {name} | reference | 150.0 ± 1.0 | 1.50 | 20.0 |" in steps
    assert "fused" not in steps + losses
    assert "median of 3 rounds on 1 thread, measured at commit c with torch 2." in cost.conditions(result)
    assert "The fused loss cannot run here." in cost.conditions(result)
    assert f"| {name} | reference | 150.0 ± 1.0 | 1.5 | 0.0 | 0.15 | 2.0 | 0.5 |" in losses
    assert f"| {name} | release | 800.0 ± 1.0 | 8 | 200.0 | 1 | 16.0 | 4 |" in losses
    assert "| reference | 5 | 0.50 |" in cost.largest_table(result)
    assert "must fit into 1 GiB." in cost.largest_table(result)
    assert "| images in the batch, stock | 1 to 4 | 5.0 | 10.00 | 1.000 |" in cost.scaling_table(result)
    assert "| 0.2 | 0.15 | met |" in cost.goal_table(result)
    result["steps"][0]["losses"] = []
    assert "| 0.2 | not measured | - |" in cost.goal_table(result)


def test_losing_cases_are_those_and_no_others(result: Json) -> None:
    lines = cost.losing_cases(result, cost.OURS).splitlines()[4:]
    assert [line.split("|")[2:5] for line in lines] == [
        [" reference to stock ", " time of the step ", " 1.50 "],
        [" reference to stock ", " time of the loss alone ", " 1.50 "],
        [" reference to stock ", " largest batch ", " 0.50 "],
    ]
    result["largest"]["batch"]["reference"] = 10
    for step in result["steps"]:
        for rows in (step["steps"], step["losses"]):
            rows[0]["ms"] = 200.0
    assert "There are none." in cost.losing_cases(result, cost.OURS)
    result["steps"][0]["losses"].append({"provider": "compiled", "status": "wrong: 2, the reference has 1"})
    assert "wrong: 2" in cost.losing_cases(result, cost.OURS)


def test_table_of_ops() -> None:
    def case(op: str, direction: str, provider: str, ms: float, status: str = "measured") -> Json:
        return {
            "op": op, "case": "float32", "pass": direction, "provider": provider, "size": "2x3", "status": status,
            "median_ms": ms, "iqr_ms": 0.5,
        }  # fmt: skip

    cases = [case("b", "both", "reference", 30.0), case("b", "both", "fused", 4.0), case("b", "forward", "fused", 1.0)]
    cases += [case("a", "forward", "release", 8.0), case("a", "both", "fused", 9.0, status="skipped")]
    cases.append(case("b", "both", "fused", 5.0) | {"case": "uint8"})  # the second of its op
    cases += [case("so3", "both", "fused", 1.0), case("so3", "both", "roma", 9.0)]  # on a page of its own
    text = ops.op_table({"machine": {"device": "a CPU"}, "cases": cases}, first_only=True)
    assert text.splitlines()[2:] == [
        "| `a` | float32: 2x3 | 8 ± 0.5 | - | - | - | - |",
        "| `b` | float32: 2x3 | - | 30 ± 0.5 | - | 4 ± 0.5 | 7.5 |",
    ]


def test_pairs_of_both_hosts_are_taken_together() -> None:
    def runs(*miou: float) -> list[Json]:
        scores = [dict.fromkeys(worth.COLUMNS, 0.0) | {"miou": value} for value in miou]
        return [{"seed": seed, "metrics": metrics} for seed, metrics in enumerate(scores)]

    arms = {"boundary": runs(0.1, 0.2), "log": runs(0.11, 0.23), "headless-boundary": runs(0.5, 0.5)}
    name = worth.BOTH_HOSTS
    assert name not in worth.paired(arms)
    (line,) = (x for x in worth.paired(arms | {"headless-default": runs(0.52)}).splitlines() if name in x)
    assert line.startswith(f"| {name} | 3 | +2.00 ± 1.00 | +0.00 ± 0.00 |")


def test_pictures_of_costs(result: Json) -> None:
    panels = draw_steps(result).axes
    bars = [bar for bar in panels[0].patches if isinstance(bar, Rectangle)]
    assert sorted({round(bar.get_width()) for bar in bars}) == [20]
    assert len(bars) == 3 * len(PHASES)
    lines = draw_scaling(result).axes[0].lines
    assert np.array_equal(lines[0].get_ydata(), [15, 25, 45])
    assert np.asarray(lines[1].get_ydata()) == pytest.approx([15, 45])
