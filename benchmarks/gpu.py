"""``python -m benchmarks.gpu --out DIR``, from the repository's root, measures all that one machine can measure.

In this order, so that a machine that is lost early has told what matters most: whether every kernel is right (the tests
that need a GPU and those of the kernels, each test's first case first), what every op costs with our kernels, what a
training step costs, what it launches, what the ops cost with everything else, and, with ``--study CAMVID``, as much of
the study as fits. Each runs in a process with a time limit, and after each the files in ``DIR`` are up to date:
``summary.json`` (by ``ops/schema.json``), ``summary.md``, ``raw.json`` (by pytest-benchmark), ``training.json``,
``launches.json``, ``camvid_study.json``, ``tests.xml`` and ``log.txt``. Whatever fails, crashes or runs out of time is
recorded, and the rest continues; the step benchmark and the study continue where an earlier run with the same ``DIR``
was stopped. ``--dry-run`` does all of this with no GPU (``benchmarks/dry_run.py``).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from benchmarks.common.machine import ON_GPU, machine
from benchmarks.common.paths import ROOT
from benchmarks.common.processes import execute
from benchmarks.common.results import Json
from benchmarks.ops.summary import SCHEMA, compared, table, write

FIRST = (
    "segmentation_loss", "extract_tiles", "homography_warp", "boundary_map", "boundary_loss", "dice_loss", "total_loss"
)  # fmt: skip
# Parts of the time; a part may also take what the ones before it left.
TESTS_SHARE, FUSED_SHARE, STEPS_SHARE, LAUNCHES_SHARE, OTHERS_SHARE, STUDY_SHARE = 2, 2, 2.5, 1, 2.5, 10
TEST_SECONDS = 120  # at most, on a GPU
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml"))
DRY_RUN = ("-m", "benchmarks.dry_run")
# There C++ computes what Triton launches, and nothing traces tensors that only pretend to be on a GPU.
DRY_TESTS = ("-m", "kernel and not (gpu or triton)", "-k", "not opcheck")


class Program(NamedTuple):
    """A module to run, with its options and its share of the time."""

    module: str
    options: list[str]
    share: float
    needs_gpu: bool = True


class Part(NamedTuple):
    share: float
    run: Callable[[float], None]  # for at most so many seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=10, help="time for everything")
    parser.add_argument(
        "--study", type=Path, metavar="CAMVID", help="also train arms of the study on CamVid in this folder"
    )
    parser.add_argument("--dry-run", action="store_true", help="run it all without a GPU; the numbers mean nothing")
    options = parser.parse_args()
    tests = [ROOT / "tests/kernels", *(ROOT / "tests").glob("test_so3*.py")]
    benches = sorted((ROOT / "benchmarks/ops").glob("bench_*.py"), key=_rank)
    with Run(
        options.out, tests, benches, programs(options.out, options.study, options.dry_run), options.dry_run
    ) as run:
        print(table(run.all(options.minutes)))


def programs(out: Path, study: Path | None, dry_run: bool = False) -> dict[str, Program]:
    """List the programs: the step benchmark, the launch book and, if its folder of CamVid is given, the study."""
    out, rounds = out.resolve(), ["--rounds", "1"] if dry_run else []
    listed = {
        "training": Program("benchmarks.training", ["--out", str(out / "training.json"), *rounds], STEPS_SHARE),
        "launches": Program(
            "benchmarks.launches", ["--out", str(out / "launches.json")], LAUNCHES_SHARE, needs_gpu=False
        ),
    }
    if study:
        options = ["--root", str(study.resolve()), "--out", str(out / "camvid_study.json")]
        listed["camvid_study"] = Program("benchmarks.studies.camvid_study", options, STUDY_SHARE)
    return listed


def _rank(file: Path) -> tuple[int, str]:
    op = file.stem.removeprefix("bench_")
    return FIRST.index(op) if op in FIRST else len(FIRST), op


class Run(ExitStack):
    """Runs tests, files of benchmarks and programs, and keeps a summary of them."""

    def __init__(
        self,
        out: Path,
        tests: Sequence[Path],
        benches: Sequence[Path],
        programs: Mapping[str, Program],
        dry_run: bool = False,
    ) -> None:
        super().__init__()
        if missing := [module for module in ("pytest", "pytest_benchmark") if not find_spec(module)]:
            raise SystemExit(f"nothing can be measured without {' and '.join(missing)}")
        self.out, self.tests, self.benches, self.programs = out.resolve(), tests, benches, programs
        self.dry_run = dry_run
        self.out.mkdir(parents=True, exist_ok=True)
        self.log = self.enter_context((self.out / "log.txt").open("w"))
        self.scratch = Path(self.enter_context(tempfile.TemporaryDirectory()))
        self.start = time.monotonic()
        about = machine()
        if dry_run:
            about["device"] = f"no GPU (dry run on {about['device']})"
        self.summary: Json = {"schema": SCHEMA["properties"]["schema"]["const"], "machine": about}
        self.summary |= {"tests": _outcome("not run", 0.0, ElementTree.Element("testsuite")), "files": [], "cases": []}
        self.raw: Json = {}

    def all(self, minutes: float) -> Json:
        """Run every part, in order; return the summary, which was written after each."""
        parts = [Part(TESTS_SHARE, self.run_tests), Part(FUSED_SHARE, self.run_fused)]
        study = self.programs.get("camvid_study")
        first = {name: program for name, program in self.programs.items() if program is not study}
        parts += [Part(program.share, self._runner(name, program)) for name, program in first.items()]
        parts.append(Part(OTHERS_SHARE, self.run_others))
        if study:
            parts.append(Part(study.share, self._runner("camvid_study", study)))
        for index, part in enumerate(parts):
            later = sum(other.share for other in parts[index + 1 :]) / sum(other.share for other in parts)
            part.run(60 * minutes * (1 - later) - (time.monotonic() - self.start))
            self.save()
        return self.summary

    def save(self) -> None:
        self.summary["seconds"] = time.monotonic() - self.start
        write(self.out, compared(self.summary), self.raw)

    def run_tests(self, seconds: float) -> None:
        """Run the tests that need a GPU and those of the kernels."""
        # Compiling on the host takes most of their time, so several workers share the GPU.
        workers = ["-n", "8"] if ON_GPU and find_spec("xdist") else []
        chosen = DRY_TESTS if self.dry_run else ("-m", "gpu or kernel or triton")
        xml = self.out / "tests.xml"
        xml.unlink(missing_ok=True)
        options = [
            "--continue-on-collection-errors",
            "-p",
            "benchmarks.common.in_turns",
            *workers,
            *chosen,
            f"--junitxml={xml}",
        ]
        limit = seconds if self.dry_run else min(TEST_SECONDS, seconds)
        status, spent = self._python([*PYTEST, *options, *map(str, self.tests)], limit)
        suites = ElementTree.parse(xml).getroot().iter("testsuite") if xml.exists() else iter(())
        self.summary["tests"] = _outcome(status, spent, next(suites, ElementTree.Element("testsuite")))

    def run_fused(self, seconds: float) -> None:
        """Measure our kernels alone, of all ops, in one process, because starting one for each op takes longer."""
        self._bench("fused", self.benches, ["-k", "fused"], seconds)

    def run_others(self, seconds: float) -> None:
        """Measure all that was not measured yet, in a process for each file, so that a crash ends one file alone."""
        end = time.monotonic() + seconds
        for index, file in enumerate(self.benches):
            left = end - time.monotonic()
            # A file may take twice its share, because others need less than theirs.
            self._bench(file.name, [file], [], min(left, 2 * left / (len(self.benches) - index)))
            self.save()

    def _bench(self, name: str, files: Sequence[Path], options: Sequence[str], seconds: float) -> None:
        lines, raw = self.scratch / "cases.jsonl", self.scratch / f"{name}.json"
        command = [*PYTEST, *map(str, files), *options, f"--benchmark-json={raw}"]
        self._record(name, *self._python(command, seconds, INVERSEFORM_BENCH_CASES=str(lines)))
        cases = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
        last_tries = {(case["op"], case["case"], case["pass"], case["provider"]): case for case in cases}
        self.summary["cases"] = list(last_tries.values())
        saved = raw.exists() and raw.read_text()
        self.raw[name.removesuffix(".py")] = json.loads(saved) if saved else None

    def _runner(self, name: str, program: Program) -> Callable[[float], None]:
        def run(seconds: float) -> None:
            if find_spec(program.module) is None:
                self._record(name, f"not run: there is no {program.module}", 0.0)
            else:
                command = ["-m", program.module, *program.options]
                self._record(name, *self._python(command, seconds, pretend=program.needs_gpu))

        return run

    def _python(
        self, arguments: Sequence[str], seconds: float, pretend: bool = True, **environment: str
    ) -> tuple[str, float]:
        """Run Python, in a dry run with a pretended GPU; return how it ended, and after how many seconds."""
        dry_run = DRY_RUN if self.dry_run and pretend else ()
        return execute([*dry_run, *arguments], seconds, self.log, **environment)

    def _record(self, file: str, status: str, seconds: float) -> None:
        self.summary["files"].append({"file": file, "status": status, "seconds": seconds})


def _outcome(status: str, seconds: float, suite: ElementTree.Element) -> Json:
    """Sum up what pytest wrote of its tests: in all, and by file."""
    counts = {kind: int(suite.get(kind, 0)) for kind in ("tests", "failures", "errors", "skipped")}
    files: dict[str, Counter[str]] = {}
    failures = []
    for case in suite.iter("testcase"):
        if not case.get("classname"):  # it was interrupted
            continue
        bad = case.find("failure") is not None or case.find("error") is not None
        kind = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
        files.setdefault(case.get("classname", "").rpartition(".")[2], Counter())[kind] += 1
        failures += [f"{case.get('classname')}::{case.get('name')}"] if bad else []
    return {"status": status, "seconds": seconds, "counts": counts, "files": files, "failures": failures}


if __name__ == "__main__":
    main()
