"""``python -m benchmarks.gpu --out DIR``, from the repository's root, measures all that one machine can measure.

It runs the GPU and kernel tests, every ``ops/bench_<op>.py``, the step benchmark and, with ``--study CAMVID``, as much
of the study as fits. Each runs in a process with a time limit, and after each the files in ``DIR`` are up to date:
``summary.json`` (by ``ops/schema.json``), ``summary.md``, ``raw.json`` (by pytest-benchmark), ``training.json``,
``camvid_study.json``, ``tests.xml`` and ``log.txt``. Whatever fails, crashes or runs out of time is recorded, and the
rest continues; the step benchmark and the study continue where an earlier run with the same ``DIR`` was stopped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TextIO

from benchmarks.common.machine import ON_GPU, machine
from benchmarks.common.paths import ROOT
from benchmarks.common.processes import execute
from benchmarks.common.results import Json
from benchmarks.ops.summary import SCHEMA, compared, table, write

FIRST = (
    "segmentation_loss", "extract_tiles", "homography_warp", "boundary_map", "boundary_loss", "dice_loss", "total_loss"
)  # fmt: skip
STEPS_SHARE, STUDY_SHARE = 0.25, 0.5  # shares of the minutes
TEST_SECONDS = 180
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml"))


class Program(NamedTuple):
    """The arguments for Python, and the program's share of the time."""

    arguments: list[str]
    share: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=10, help="time for everything")
    parser.add_argument(
        "--study", type=Path, metavar="CAMVID", help="also train arms of the study on CamVid in this folder"
    )
    options = parser.parse_args()
    tests = [ROOT / "tests/kernels", *(ROOT / "tests").glob("test_so3*.py")]
    benches = sorted((ROOT / "benchmarks/ops").glob("bench_*.py"), key=_rank)
    summary = run(options.out, options.minutes, tests, benches, programs(options.out, options.study))
    print(table(summary))


def programs(out: Path, study: Path | None) -> dict[str, Program]:
    """List what runs after the ops: the step benchmark and, if its folder of CamVid is given, the study."""
    listed = {
        "training": Program(["-m", "benchmarks.training", "--out", str(out.resolve() / "training.json")], STEPS_SHARE)
    }
    if study:
        options = ["--root", str(study.resolve()), "--out", str(out.resolve() / "camvid_study.json")]
        listed["camvid_study"] = Program(["-m", "benchmarks.studies.camvid_study", *options], STUDY_SHARE)
    return listed


def _rank(file: Path) -> tuple[int, str]:
    op = file.stem.removeprefix("bench_")
    return FIRST.index(op) if op in FIRST else len(FIRST), op


def run(
    out: Path, minutes: float, tests: Sequence[Path], benches: Sequence[Path], programs: Mapping[str, Program]
) -> Json:
    """Run tests, files of benchmarks and programs; write and return the summary."""
    if missing := [module for module in ("pytest", "pytest_benchmark") if not find_spec(module)]:
        raise SystemExit(f"nothing can be measured without {' and '.join(missing)}")
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    summary: Json = {"schema": SCHEMA["properties"]["schema"]["const"], "machine": machine()}
    shares = {name: program.share for name, program in programs.items()}

    def remaining() -> float:
        """Return the seconds until the programs that are still to come begin."""
        return 60 * minutes * (1 - sum(shares.values())) - (time.monotonic() - start)

    with (out / "log.txt").open("w") as log, tempfile.TemporaryDirectory() as scratch:
        summary["tests"] = run_tests(tests, out / "tests.xml", min(TEST_SECONDS, remaining()), log)
        summary |= {"files": [], "cases": []}
        raw: Json = {}

        def save(file: str, status: str, seconds: float) -> None:
            summary["files"].append({"file": file, "status": status, "seconds": seconds})
            summary["seconds"] = time.monotonic() - start
            write(out, compared(summary), raw)

        for index, file in enumerate(benches):
            # A file may take twice its share, because others need less than theirs.
            seconds = min(remaining(), 2 * remaining() / (len(benches) - index))
            status, spent, cases, raw[file.stem] = run_bench(file, Path(scratch), seconds, log)
            summary["cases"] += cases
            save(file.name, status, spent)
        for name, program in programs.items():
            del shares[name]
            save(name, *execute(program.arguments, remaining(), log))
    return summary


def run_tests(tests: Sequence[Path], xml: Path, seconds: float, log: TextIO) -> Json:
    """Run the tests that need a GPU and those of the kernels."""
    # Compiling on the host takes most of their time, so several workers share the GPU.
    workers = ["-n", "8"] if ON_GPU and find_spec("xdist") else []
    options = [*workers, "-m", "gpu or kernel or triton", f"--junitxml={xml}"]
    status, spent = execute([*PYTEST, *options, *map(str, tests)], seconds, log)
    suites = ElementTree.parse(xml).getroot().iter("testsuite") if xml.exists() else []
    suite = next(iter(suites), ElementTree.Element("testsuite"))
    counts = {kind: int(suite.get(kind, 0)) for kind in ("tests", "failures", "errors", "skipped")}
    bad = [c for c in suite.iter("testcase") if c.find("failure") is not None or c.find("error") is not None]
    failures = [f"{case.get('classname')}::{case.get('name')}" for case in bad]
    return {"status": status, "seconds": spent, "counts": counts, "failures": failures}


def run_bench(file: Path, scratch: Path, seconds: float, log: TextIO) -> tuple[str, float, list[Json], Json | None]:
    """Run one file of benchmarks.

    Returns:
        How it ended, after how many seconds, its cases, and pytest-benchmark's own record of them.
    """
    lines, raw = scratch / f"{file.stem}.jsonl", scratch / f"{file.stem}.json"
    command = [*PYTEST, str(file), f"--benchmark-json={raw}"]
    status, spent = execute(command, seconds, log, INVERSEFORM_BENCH_CASES=str(lines))
    cases = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    saved = raw.exists() and raw.read_text()
    return status, spent, cases, json.loads(saved) if saved else None


if __name__ == "__main__":
    main()
