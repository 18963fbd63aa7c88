"""The table and the file of ``inverseform-fast bench`` say what was measured."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from inverseform_fast.bench.measure import LossRow, StepRow
from inverseform_fast.bench.report import BenchRow, table
from inverseform_fast.bench.setting import Setting
from inverseform_fast.bench.steps import PHASES
from inverseform_fast.cli.app import app

MIB = 2**20
TINY = Setting(crop=(64, 64), classes=5)
pytestmark = pytest.mark.usefixtures("quick_garbage_collection")


def made_up(provider: str, factor: float, largest_batch: int | None = None) -> BenchRow:
    step: StepRow = {
        "provider": provider,
        "status": "measured",
        "ms": 100 * factor,
        "iqr_ms": 2 * factor,
        "phases_ms": {phase: (index + 1) * factor for index, phase in enumerate(PHASES)},
        "images_per_second": 40 / factor,
        "peak_bytes": 300 * MIB,
    }
    loss: LossRow = {
        "provider": provider,
        "status": "measured",
        "ms": 33 * factor,
        "iqr_ms": 1.0,
        "peak_bytes": 77 * MIB,
        "targets_ms": 12.5 * factor,
        "value": 1.0,
    }
    return {"provider": provider, "step": step, "loss": loss, "largest_batch": largest_batch}


def rendered(rows: list[BenchRow]) -> dict[str, list[str]]:
    """Renders the table; returns its lines by their first cell, and title and caption under the empty name."""
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(table(replace(TINY, batch_size=3), rows))
    lines: dict[str, list[str]] = {"": []}
    for line in console.export_text().splitlines():
        cells = [cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")]
        if len(cells) > 1:
            lines[cells[0]] = cells[1:]
        else:
            lines[""] += cells
    return lines


def test_the_table_shows_what_was_measured_and_what_failed() -> None:
    wrong = made_up("compiled", 1.0)
    wrong["loss"]["status"] = "wrong: 2, the reference has 1"
    absent: BenchRow = {
        "provider": "fused",
        "step": {"provider": "fused", "status": "no [red] GPU"},
        "loss": {"provider": "fused", "status": "no GPU"},
        "largest_batch": None,
    }
    lines = rendered([made_up("stock", 1.0, 8), made_up("reference", 2.0), wrong, absent])
    assert lines["stock"] == ["reference"]  # the head: whose columns they are
    expected = {
        "step, ms": ["100.0 ± 2.0", "200.0 ± 4.0"],
        "data": ["1.0", "2.0"],
        "update": ["5.0", "10.0"],
        "images/s": ["40.00", "20.00"],
        "step, MiB": ["300", "300"],
        "loss alone, ms": ["33.0 ± 1.0", "66.0 ± 1.0"],
        "its targets, ms": ["12.5", "25.0"],
        "loss alone, MiB": ["77", "77"],
        "largest batch": ["8", "-"],
    }
    assert {name: lines[name] for name in expected} == expected
    assert lines[""][0] == "test_resnet on cpu: 3 x 64x64, 5 classes"
    assert "compiled: wrong: 2, the reference has 1" in lines[""]
    assert "fused: no [red] GPU" in lines[""]


def test_the_command_prints_the_table_and_writes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    arguments = "bench --crop 64 96 --classes 5 --batch-size 2 --rounds 1 --device cpu --memory-gib 0.004 --threads 1"
    providers = [word for name in ("stock", "reference") for word in ("--provider", name)]
    result = CliRunner().invoke(
        app, [*arguments.split(), *providers, "--json", str(path)], env={"COLUMNS": "120"}, catch_exceptions=False
    )
    assert result.exit_code == 0
    written = json.loads(path.read_text())
    assert written["setting"]["crop"] == [64, 96]
    assert [row["provider"] for row in written["rows"]] == ["stock", "reference"]
    stock, ours = written["rows"]
    for row in (stock, ours):
        for figure in (row["step"], row["loss"]):
            assert f"{figure['ms']:.1f} ± {figure['iqr_ms']:.1f}" in result.output
        assert f"{row['step']['images_per_second']:.2f}" in result.output
    assert "test_resnet on cpu: 2 x 64x96, 5 classes" in result.output
    assert stock["largest_batch"] > ours["largest_batch"] == 0
