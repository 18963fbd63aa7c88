"""The dry run takes the paths of a GPU: Triton compiles the launches, and what only a GPU measures is measured.

``python -m benchmarks.gpu --out DIR --dry-run`` runs all of it.
"""

from __future__ import annotations

import json
from pathlib import Path

import fastjsonschema
import pytest

from benchmarks import gpu
from benchmarks.common.paths import ROOT
from benchmarks.ops import summary
from inverseform_fast.ops.backend import MISSING

pytestmark = pytest.mark.skipif(bool(MISSING["cpu"] or MISSING["triton"]), reason="needs the extension and Triton")


def test_a_day_on_a_gpu_runs_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "compiled"))
    out = tmp_path / "out"
    kernel_tests, bench = ROOT / "tests/kernels/test_dice_loss_kernel.py", ROOT / "benchmarks/ops/bench_boundary_map.py"
    with gpu.Run(out, [kernel_tests], [bench], {}, dry_run=True) as run:
        run.all(10)

    written = json.loads((out / "summary.json").read_text())
    fastjsonschema.validate(summary.SCHEMA, written)
    assert written["machine"]["device"].startswith("no GPU (dry run on ")
    assert (written["tests"]["status"], written["tests"]["failures"]) == ("passed", [])
    assert written["tests"]["files"]["test_dice_loss_kernel"]["passed"] > 0
    assert {file["status"] for file in written["files"]} == {"passed"}
    assert {case["provider"] for case in written["cases"]} == {"release", "reference", "fused", "compiled"}
    for case in written["cases"]:
        assert (case["status"], case["gate"]) == ("measured", "passed"), case["reason"]
        assert case["share_of_roofline"] > 0
    compiled = {path.stem for path in (tmp_path / "compiled").rglob("*.cubin")}
    assert {"_boundary_map_sliding_window", "_sums_of_classes", "_dice_loss_backward"} <= compiled
