"""The pages that are made of results are up to date, and it is noticed when they are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import cost_page, gpu, ops_page, pages, worth_page

SETTING = {
    "backbone": "b", "model": "pyramid", "crop": [64, 128], "classes": 19, "batch_size": 2, "amp": "none",
    "headless": False, "resize": None, "device": "cpu",
}  # fmt: skip


def test_nothing_is_stale() -> None:
    assert pages.stale() == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of what the pages are made of, and of the pages."""
    for path in [*pages.pages(), *(picture.path for picture in pages.pictures())]:
        copy = tmp_path / path.relative_to(gpu.ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    shutil.copytree(gpu.ROOT / "benchmarks/results", tmp_path / "benchmarks/results")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "page", "picture"),
    [
        ("training_cpu.json", "docs/measured/benchmarks.md", "docs/measured/benchmarks_steps_cpu.png"),
        ("camvid_study_cpu.json", "docs/measured/results.md", "docs/measured/results_scores_cpu.png"),
    ],
)
def test_other_results_make_pages_and_pictures_stale(root: Path, file: str, page: str, picture: str) -> None:
    assert pages.stale(root) == []
    path = root / "benchmarks/results" / file
    results = json.loads(path.read_text())
    if "steps" in results:
        results["steps"][0]["steps"][0]["ms"] *= 2
    else:
        next(run for run in results["runs"] if run["stage"] == "test")["metrics"]["miou"] += 0.1
    path.write_text(json.dumps(results))
    assert {root / page, root / "README.md", root / picture} <= set(pages.stale(root))


def test_a_picture_is_drawn_with_the_digest_of_its_results(root: Path) -> None:
    picture = next(each for each in pages.pictures(root) if each.path.name == "results_scores_cpu.png")
    picture.path.unlink()
    assert picture.is_stale()
    picture.write()
    assert not picture.is_stale()
    with Image.open(picture.path) as image:
        assert image.width > 500


def row(provider: str, ms: float, peak: int, **more: Any) -> dict[str, Any]:
    return {"provider": provider, "status": "measured", "ms": ms, "iqr_ms": 1.0, "peak_bytes": peak, **more}


@pytest.fixture
def result() -> dict[str, Any]:
    """Ours is slower than stock and smaller, and faster than the release; fused cannot run."""
    phases = {"phases_ms": dict.fromkeys(cost_page.PHASES, 20.0), "images_per_second": 5.0}
    times = {"stock": (100.0, 4 << 20), "release": (800.0, 16 << 20), "reference": (150.0, 2 << 20)}
    fused = {"provider": "fused", "status": "cannot run here"}
    steps = [*(row(name, *each, **phases) for name, each in times.items()), fused]
    targets = {"stock": 0.0, "release": 200.0, "reference": 0.0}
    losses = [*(row(name, *each, targets_ms=targets[name], value=1.0) for name, each in times.items()), fused]
    points = [{"axis": "images", "x": n, "setting": SETTING, "ms": {"stock": 5 + 10 * n}} for n in (1, 2, 4)]
    machine = {"device": "a CPU", "threads": 1, "commit": "c", "versions": {"torch": "2"}, "missing": []}
    return {
        "machine": machine | {"bandwidth_bytes_per_s": None},
        "rounds": 3,
        "steps": [{"name": "512 x 1024", "setting": SETTING, "steps": steps, "losses": losses}],
        "scaling": points,
        "largest": {"setting": SETTING, "bytes": 2**30, "batch": {"stock": 10, "reference": 5}},
    }


def test_tables_of_costs(result: dict[str, Any]) -> None:
    name = "b, 2 x 64x128, C 19"
    assert f"| {name} | reference | 150.0 ± 1.0 | 1.50 | 20.0 |" in cost_page.step_tables(result)
    assert "fused" not in cost_page.step_tables(result) + cost_page.loss_tables(result)
    assert "1 thread; 3 rounds; commit c; torch 2. fused cannot run here." in cost_page.conditions(result)
    assert f"| {name} | reference | 150.0 ± 1.0 | 1.5 | 0.0 | 0.15 | 2.0 | 0.5 |" in cost_page.loss_tables(result)
    assert f"| {name} | release | 800.0 ± 1.0 | 8 | 200.0 | 1 | 16.0 | 4 |" in cost_page.loss_tables(result)
    assert "| reference | 5 | 0.50 |" in cost_page.largest_table(result)
    assert "in 1 GiB of tensors" in cost_page.largest_table(result)
    assert "| images in the batch, stock | 1 to 4 | 5.0 | 10.00 | 1.000 |" in cost_page.scaling_table(result)
    assert "| 0.2 | 0.15 | met |" in cost_page.goal_table(result)
    result["steps"][0]["losses"] = []
    assert "| 0.2 | not measured | - |" in cost_page.goal_table(result)


def test_losing_cases_are_those_and_no_others(result: dict[str, Any]) -> None:
    lines = cost_page.losing_cases(result).splitlines()[4:]
    assert [line.split("|")[2:5] for line in lines] == [
        [" reference to stock ", " time of the step ", " 1.50 "],
        [" reference to stock ", " time of the loss alone ", " 1.50 "],
        [" reference to stock ", " largest batch ", " 0.50 "],
    ]
    result["largest"]["batch"]["reference"] = 10
    for step in result["steps"]:
        for rows in (step["steps"], step["losses"]):
            rows[0]["ms"] = 200.0
    assert "None." in cost_page.losing_cases(result)
    result["steps"][0]["losses"].append({"provider": "compiled", "status": "wrong: 2, the reference has 1"})
    assert "wrong: 2" in cost_page.losing_cases(result)


def test_table_of_ops() -> None:
    def case(op: str, direction: str, provider: str, ms: float, status: str = "measured") -> dict[str, Any]:
        return {
            "op": op, "case": "float32", "pass": direction, "provider": provider, "size": "2x3", "status": status,
            "median_ms": ms, "iqr_ms": 0.5,
        }  # fmt: skip

    cases = [case("b", "both", "reference", 30.0), case("b", "both", "fused", 4.0), case("b", "forward", "fused", 1.0)]
    cases += [case("a", "forward", "release", 8.0), case("a", "both", "fused", 9.0, status="skipped")]
    text = ops_page.op_table({"machine": {"device": "a CPU"}, "cases": cases})
    assert text.splitlines()[4:] == [
        "| `a` | float32: 2x3 | 8 ± 0.5 | - | - | - | - |",
        "| `b` | float32: 2x3 | - | 30 ± 0.5 | - | 4 ± 0.5 | 7.5 |",
    ]


def test_pairs_of_both_hosts_are_taken_together() -> None:
    def runs(*miou: float) -> list[dict[str, Any]]:
        scores = [dict.fromkeys(worth_page.COLUMNS, 0.0) | {"miou": value} for value in miou]
        return [{"seed": seed, "metrics": metrics} for seed, metrics in enumerate(scores)]

    arms = {"boundary": runs(0.1, 0.2), "log": runs(0.11, 0.23), "headless-boundary": runs(0.5, 0.5)}
    name = "InverseForm at gamma 0.3, less none, with a head and headless"
    assert name not in worth_page.paired(arms)
    (line,) = (x for x in worth_page.paired(arms | {"headless-default": runs(0.52)}).splitlines() if name in x)
    assert line.startswith(f"| {name} | 3 | +2.00 ± 1.00 | +0.00 ± 0.00 |")


def test_pictures_of_costs(result: dict[str, Any]) -> None:
    panels = cost_page.draw_steps(result).axes
    assert sorted({round(bar.get_width()) for bar in panels[0].patches}) == [20]
    assert len(panels[0].patches) == 3 * len(cost_page.PHASES)
    lines = cost_page.draw_scaling(result).axes[0].lines
    assert list(lines[0].get_ydata()) == [15, 25, 45]
    assert list(lines[1].get_ydata()) == pytest.approx([15, 45])
