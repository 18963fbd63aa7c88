"""The benchmarks measure right results only, and what breaks does not stop the rest; nothing is timed here."""

from __future__ import annotations

import importlib
import json
import signal
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest
import torch

from benchmarks import gpu
from benchmarks.common import machine, results
from benchmarks.common.paths import RESULTS, ROOT
from benchmarks.common.processes import execute
from benchmarks.ops import bench_so3, inputs, summary
from benchmarks.ops.workload import Workload, calls
from benchmarks.so3.hunt import hunt
from benchmarks.training.__main__ import SCHEMA as TRAINING
from inverseform_fast import functional, reference

BENCHES = ROOT / "benchmarks/ops"
RELEASES = [  # file, workload, pass
    ("boundary_map", "street-uint8-1", "forward"),
    ("extract_tiles", "float32", "both"),
    ("extract_tiles", "bfloat16", "forward"),
    ("homography_warp", "float32", "both"),
    ("segmentation_loss", "float32-int64", "both"),
    ("segmentation_loss", "bfloat16-uint8", "backward"),
    ("dice_loss", "float32-int64", "both"),
    ("boundary_f1_loss", "float32-int64", "both"),
    ("boundary_loss", "float32-int64", "both"),
    ("boundary_loss", "bfloat16-uint8", "forward"),
    ("total_loss", "float32-int64-head", "both"),
]
WORKING = """
import torch
from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload

def workload(name):
    x = torch.ones(3, device=inputs.DEVICE, requires_grad=True)
    wrong = lambda x: x + 1
    return Workload(torch.exp, torch.exp, (x,), {"forward": 24}, wrong)

test_exp = harness.cases("exp", workload, ["ones"], ["forward"], ["release", "reference"])
"""


def workload(op: str, name: str) -> Workload:
    made: Workload = importlib.import_module(f"benchmarks.ops.bench_{op}").workload(name)
    return made


@pytest.mark.parametrize("op", functional.__all__)
def test_every_op_has_its_file(op: str) -> None:
    file = getattr(reference, op).__module__.rpartition(".")[2]
    assert (BENCHES / f"bench_{file}.py").exists()


@pytest.mark.parametrize(("op", "name", "direction"), RELEASES)
def test_release_equals_reference(op: str, name: str, direction: str) -> None:
    work = workload(op, name)
    work.check(calls(work.provider("release"), work.arguments, direction)(), direction, "release")


@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize("name", ["float32-near-1000", "float32-far-1000", "float64-near-1000", "float64-far-1000"])
@pytest.mark.parametrize("provider", ["naive", "roma", "fused"])
def test_so3_peers_equal_reference(name: str, direction: str, provider: str) -> None:
    if provider == "roma":
        pytest.importorskip("roma")
    for work in (bench_so3.workload(name), bench_so3.workload(f"{name}-pair"), bench_so3.projection(name)):
        work.check(calls(work.provider(provider), work.arguments, direction)(), direction, provider)


def test_a_peer_may_be_wrong_in_no_more_than_its_share() -> None:
    work = bench_so3.workload("float32-near-1000")
    outputs = calls(work.reference, work.arguments, "forward")()
    outputs[0][:10] = float("nan")
    work.check(outputs, "forward", "naive")
    outputs[0][10] = float("nan")
    with pytest.raises(AssertionError, match="off by"):
        work.check(outputs, "forward", "naive")


def test_hunt_finds_a_small_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hunt(1000, 0, "cpu")["passed"]
    tilt = torch.linalg.matrix_exp(torch.tensor([[0.0, 1e-4, 0], [-1e-4, 0, 0], [0, 0, 0]]))
    monkeypatch.setattr(functional, "project_to_so3", lambda m: tilt @ reference.project_to_so3(m))
    assert not hunt(1000, 0, "cpu")["passed"]


def test_forward_needs_the_fewest_bytes() -> None:
    """An op must at least read its inputs once and write its outputs once."""
    work = workload("extract_tiles", "bfloat16")
    outputs = calls(work.reference, work.arguments, "forward")()
    assert work.bytes["forward"] == sum(t.nbytes for t in (*work.arguments[:2], *outputs))


@pytest.mark.parametrize("wrong", [lambda y: y * 1.01, lambda y: y * float("nan"), lambda y: y[:1]])
def test_a_wrong_result_is_never_timed(wrong: Any) -> None:
    work = workload("homography_warp", "float32")
    work.tolerance = None
    outputs = calls(work.reference, work.arguments, "forward")()
    work.check(outputs, "forward", "reference")
    with pytest.raises(AssertionError, match="result 0"):
        work.check([wrong(outputs[0])], "forward", "fused")


def test_a_wrong_whole_number_is_never_timed() -> None:
    work = workload("boundary_map", "noise-uint8")
    outputs = calls(work.reference, work.arguments, "forward")()
    outputs[0][0, 0, 0] ^= 1
    with pytest.raises(AssertionError, match="off by"):
        work.check(outputs, "forward", "fused")


def test_labels_are_like_a_street() -> None:
    labels = inputs.street_labels(torch.int64)
    same = (labels[:, 1:] == labels[:, :-1]).float().mean()
    assert same > 0.8
    assert 0.005 < (labels == 255).float().mean() < 0.1
    assert labels[labels != 255].unique().numel() > 10


def test_what_breaks_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "bench_crashing.py").write_text("import os\nos.abort()")
    (tmp_path / "bench_broken.py").write_text("raise RuntimeError")
    (tmp_path / "bench_working.py").write_text(WORKING)
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_one.py").write_text("import pytest\n@pytest.mark.gpu\ndef test_it(): assert False")
    out = tmp_path / "out"
    absent = {"absent": gpu.Program("benchmarks.absent", [], 1)}
    with gpu.Run(out, [tests], sorted(tmp_path.glob("bench_*.py")), absent) as run:
        run.all(5)

    assert {path.name for path in out.iterdir()} == {"summary.json", "summary.md", "raw.json", "tests.xml", "log.txt"}
    written = json.loads((out / "summary.json").read_text())
    fastjsonschema.validate(summary.SCHEMA, written)
    assert written["tests"]["status"] == "some failed"
    assert written["tests"]["failures"] == ["test_one::test_it"]
    assert written["tests"]["files"] == {"test_one": {"failed": 1}}
    files = {file["file"]: file["status"] for file in written["files"]}
    assert files["fused"].startswith("crashed")
    assert files["absent"] == "not run: there is no benchmarks.absent"
    assert files["bench_crashing.py"].startswith("crashed")
    assert files["bench_broken.py"] == "could not be read"
    cases = {case["provider"]: case for case in written["cases"]}
    assert cases["reference"]["status"] == "measured"
    assert cases["reference"]["gate"] == "passed"
    assert cases["release"]["status"] == "failed"
    assert "off by" in cases["release"]["gate"]
    assert cases["release"]["median_ms"] is None
    assert len(json.loads((out / "raw.json").read_text())["bench_working"]["benchmarks"]) == 1
    assert "off by" in (out / "summary.md").read_text()


def test_what_matters_most_comes_first_and_each_part_has_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[list[str], float]] = []

    def execute(command: list[str], seconds: float, *_: object, **__: object) -> tuple[str, float]:
        ran.append((command, seconds))
        return "passed", 1.0

    monkeypatch.setattr(gpu, "execute", execute)
    monkeypatch.setattr(gpu, "find_spec", lambda module: module)
    out, benches = tmp_path / "out", sorted(BENCHES.glob("bench_*.py"))
    with gpu.Run(out, [], benches, gpu.programs(out, tmp_path)) as run:
        written = run.all(20)
    names = ["fused", "training", "launches", *(bench.name for bench in benches), "camvid_study"]
    assert [file["file"] for file in written["files"]] == names
    commands, seconds = [command for command, _ in ran], [spent for _, spent in ran]
    assert "--junitxml=" in commands[0][-1]  # the tests; then our kernels of all ops, in one process
    assert commands[1][commands[1].index("-k") + 1] == "fused"
    assert {str(bench) for bench in benches} <= set(commands[1])
    assert commands[2] == ["-m", "benchmarks.training", "--out", str(out / "training.json")]
    assert commands[3] == ["-m", "benchmarks.launches", "--out", str(out / "launches.json")]
    assert commands[-1][:2] == ["-m", "benchmarks.studies.camvid_study"]
    assert commands[-1][2:] == ["--root", str(tmp_path), "--out", str(out / "camvid_study.json")]
    # Nothing took any time before, so each part may run until the next one must begin.
    assert seconds[:4] == pytest.approx([120, 240, 390, 450], abs=5)
    assert seconds[-1] == pytest.approx(1200, abs=5)
    assert gpu.programs(out, None).keys() == {"training", "launches"}


def test_each_tests_first_case_comes_first(tmp_path: Path) -> None:
    cases = "import pytest\n@pytest.mark.parametrize('n', [1, 2])\ndef test_{0}(n): pass\ndef test_other_{0}(): pass"
    for name in "ab":
        (tmp_path / f"test_{name}.py").write_text(cases.format(name))
    log = tmp_path / "log"
    with log.open("w") as file:
        execute([*gpu.PYTEST, "-p", "benchmarks.common.in_turns", "--collect-only", str(tmp_path)], 60, file)
    collected = [line.rpartition("::")[2] for line in log.read_text().splitlines() if "::" in line]
    assert collected == ["test_a[1]", "test_other_a", "test_b[1]", "test_other_b", "test_a[2]", "test_b[2]"]


def test_a_program_that_takes_too_long_writes_what_it_has(tmp_path: Path) -> None:
    """In a job in the background, too, which ignores SIGINT."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    wait = "try: print('ready', flush=True); time.sleep(60)\nexcept KeyboardInterrupt: print('wrote')"
    try:
        with (tmp_path / "log").open("w") as log:
            status, _ = execute(["-c", f"import time\n{wait}"], 3, log)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert (status, (tmp_path / "log").read_text()) == ("stopped after 3 s", "ready\nwrote\n")


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    (tmp_path / "bench_working.py").write_text(WORKING.replace('"reference"', '"reference", "fused"'))
    (tmp_path / "bench_broken.py").write_text("raise RuntimeError")
    with gpu.Run(tmp_path / "out", [tmp_path], [tmp_path / "bench_working.py"], {}) as run:
        run.run_fused(60)
        fused = run.summary["cases"]
        run.run_others(60)
    assert [case["provider"] for case in fused] == ["fused"]
    assert [case["provider"] for case in run.summary["cases"]] == ["fused", "release", "reference"]
    assert run.summary["cases"][0]["median_ms"] == fused[0]["median_ms"]


def test_what_has_no_time_left_is_recorded_as_not_run(tmp_path: Path) -> None:
    (tmp_path / "bench_late.py").write_text(WORKING)
    with gpu.Run(tmp_path / "out", [tmp_path], [tmp_path / "bench_late.py"], {}) as run:
        written = run.all(0)
    assert {file["status"] for file in written["files"]} == {"not run: out of time"}
    assert written["tests"]["status"] == "not run: out of time"


def test_hanging_file_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "bench_hanging.py").write_text("while True: pass")
    with gpu.Run(tmp_path / "out", [], [tmp_path / "bench_hanging.py"], {}) as run:
        run.run_others(0.5)
    (file,) = run.summary["files"]
    assert file["status"].startswith("stopped after")
    assert run.summary["cases"] == []
    assert run.raw == {"bench_hanging": None}


def test_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "_version", lambda package: None if package in ("roma", "scipy") else "1")
    assert machine.machine()["missing"] == ["scipy", "roma"]
    assert capsys.readouterr().out == "missing: scipy, roma\n"
    monkeypatch.setattr(gpu, "find_spec", lambda module: None if module == "pytest_benchmark" else module)
    with pytest.raises(SystemExit, match="without pytest_benchmark"):
        gpu.Run(tmp_path, [], [], {})


def test_time_and_memory_are_compared_with_the_release() -> None:
    case = {"op": "o", "case": "c", "pass": "both", "median_ms": 4.0, "peak_bytes": 10}
    cases = [case | {"provider": "release"}, case | {"provider": "fused", "median_ms": 1.0, "peak_bytes": 0}]
    fused = summary.compared({"cases": cases})["cases"][1]
    assert (fused["time_ratio"], fused["memory_ratio"]) == (0.25, 0.0)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_committed_results_keep_the_schema(path: Path) -> None:
    written = json.loads(path.read_text())
    schemas = {schema["properties"]["schema"]["const"]: schema for schema in (summary.SCHEMA, TRAINING)}
    if isinstance(written, dict) and written.get("schema") in schemas:
        fastjsonschema.validate(schemas[written["schema"]], written)
    assert path.stem.rpartition("_")[0] not in ("ops", "training") or written["schema"] in schemas


def test_without_the_validator_results_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="data must contain"):
        results.check(summary.SCHEMA, {})
    monkeypatch.setattr(results, "find_spec", lambda _: None)
    results.check(summary.SCHEMA, {})


def test_a_summary_that_breaks_the_schema_loses_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the summary breaks the schema, see .*invalid\.json"):
        summary.write(tmp_path, {"cases": []}, {"kept": 1})
    assert json.loads((tmp_path / "invalid.json").read_text()) == {"cases": []}
    assert json.loads((tmp_path / "raw.json").read_text()) == {"kept": 1}
