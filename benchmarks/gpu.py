"""All that one machine can say: ``python -m benchmarks.gpu --out DIR``, from the repository's root.

Runs the GPU and kernel tests, every ``bench_<op>.py``, the step benchmark and, with ``--study CAMVID``, as much of the
study as fits, each in a process with a time limit, and keeps in ``DIR``, up to date after each: ``summary.json`` (of
``schema.json``), ``summary.md``, ``raw.json`` (pytest-benchmark's own), ``training.json``, ``camvid_study.json``,
``tests.xml`` and ``log.txt``. Whatever fails, crashes or runs out of time is recorded, and the rest goes on; the step
benchmark and the study go on where an earlier run with the same ``DIR`` was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from benchmarks import schema
from inverseform_fast.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = schema.load("schema.json")
PACKAGES = ("torch", "triton", "numpy", "safetensors", "pytest", "pytest-benchmark", "pytest-timeout", "pytest-xdist")
PACKAGES += ("hypothesis", "fastjsonschema", "scipy", "roma", "timm", "transformers", "torchvision", "tensorboard")
FIRST = ("segmentation_loss", "extract_tiles", "homography_warp", "boundary_map", "boundary_loss", "total_loss")
STEPS = "bench_training.py"  # a program, not pytest's
STEPS_SHARE, STUDY_SHARE = 0.25, 0.5  # of the minutes
TEST_SECONDS = 180
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml"))
EXITS = {0: "passed", 1: "some failed", 2: "could not be read", 5: "no tests"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=10, help="for everything")
    parser.add_argument("--study", type=Path, metavar="CAMVID", help="folder of CamVid: train arms of the study, too")
    options = parser.parse_args()
    tests = [ROOT / "tests/kernels", *(ROOT / "tests").glob("test_so3*.py")]
    summary = run(options.out, options.minutes, ROOT / "benchmarks", tests, options.study)
    print(table(summary))


def run(out: Path, minutes: float, benches: Path, tests: Sequence[Path], study: Path | None = None) -> dict[str, Any]:
    """Run tests, a folder of benchmarks and the study on the CamVid at ``study``; write and return the summary."""
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    summary: dict[str, Any] = {"schema": SCHEMA["properties"]["schema"]["const"], "machine": machine()}

    programs = {STEPS: ["-m", "benchmarks.bench_training", "--out", str(out / "training.json")]}
    if not (benches / STEPS).exists():
        programs = {}
    shares = {STEPS: STEPS_SHARE} if programs else {}
    if study:
        options = ["--root", str(study.resolve()), "--out", str(out / "camvid_study.json")]
        programs["camvid_study.py"] = ["-m", "benchmarks.camvid_study", *options]
        shares["camvid_study.py"] = STUDY_SHARE

    def left() -> float:
        """Seconds until the programs that are still to come begin."""
        return 60 * minutes * (1 - sum(shares.values())) - (time.monotonic() - start)

    with (out / "log.txt").open("w") as log, tempfile.TemporaryDirectory() as scratch:
        summary["tests"] = run_tests(tests, out / "tests.xml", min(TEST_SECONDS, left()), log)
        summary |= {"files": [], "cases": []}
        raw: dict[str, Any] = {}
        files = sorted((file for file in benches.glob("bench_*.py") if file.name != STEPS), key=_rank)
        for index, file in enumerate(files):
            # Twice its share at most: what one does not need is left to the others.
            seconds = min(left(), 2 * left() / (len(files) - index))
            result, cases, raw[file.stem] = run_bench(file, Path(scratch), seconds, log)
            summary["files"].append(result)
            summary["cases"] += cases
            summary["seconds"] = time.monotonic() - start
            write(out, compared(summary), raw)
        for name, command in programs.items():
            del shares[name]
            status, seconds = execute(command, left(), log)
            summary["files"].append({"file": name, "status": status, "seconds": seconds})
            summary["seconds"] = time.monotonic() - start
            write(out, compared(summary), raw)
    return summary


def _rank(file: Path) -> tuple[int, str]:
    op = file.stem.removeprefix("bench_")
    return FIRST.index(op) if op in FIRST else len(FIRST), op


def run_tests(tests: Sequence[Path], xml: Path, seconds: float, log: Any) -> dict[str, Any]:
    """The tests of a GPU and of kernels."""
    # Most of their time goes into compiling, which is the host's.
    workers = ["-n", "8"] if torch.cuda.is_available() and find_spec("xdist") else []
    options = [*workers, "-m", "gpu or kernel or triton", f"--junitxml={xml}"]
    status, spent = execute([*PYTEST, *options, *map(str, tests)], seconds, log)
    suites = ElementTree.parse(xml).getroot().iter("testsuite") if xml.exists() else []
    suite = next(iter(suites), ElementTree.Element("testsuite"))
    counts = {kind: int(suite.get(kind, 0)) for kind in ("tests", "failures", "errors", "skipped")}
    bad = [c for c in suite.iter("testcase") if c.find("failure") is not None or c.find("error") is not None]
    failures = [f"{case.get('classname')}::{case.get('name')}" for case in bad]
    return {"status": status, "seconds": spent, "counts": counts, "failures": failures}


def run_bench(file: Path, scratch: Path, seconds: float, log: Any) -> tuple[dict[str, Any], list[Any], Any]:
    """What became of one file, its cases, and pytest-benchmark's own record of them."""
    lines, raw = scratch / f"{file.stem}.jsonl", scratch / f"{file.stem}.json"
    command = [*PYTEST, str(file), f"--benchmark-json={raw}"]
    status, spent = execute(command, seconds, log, INVERSEFORM_BENCH_CASES=str(lines))
    cases = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    saved = raw.exists() and raw.read_text()
    return {"file": file.name, "status": status, "seconds": spent}, cases, json.loads(saved) if saved else None


def execute(arguments: list[str], seconds: float, log: Any, **environment: str) -> tuple[str, float]:
    """Run Python for at most so long; how it ended, in the words of pytest's exit codes, and after how many seconds."""
    if seconds <= 0:
        return "not run: out of time", 0.0
    start = time.monotonic()
    # Not a worker of the pytest that may have started this: pytest-benchmark times nothing in one.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    child = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=log,
        stderr=log,
        env=inherited | environment,
        start_new_session=True,
    )
    try:
        code = child.wait(seconds)
        status = EXITS.get(code, f"crashed: exit status {code}")
    except subprocess.TimeoutExpired:
        status = f"stopped after {seconds:.0f} s"
        child.send_signal(signal.SIGINT)  # pytest then writes what it has
        with suppress(subprocess.TimeoutExpired):
            child.wait(5)
    finally:
        _kill_group(child)
    return status, time.monotonic() - start


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """The process and the compile workers that it may have left."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def machine() -> dict[str, Any]:
    """What the numbers are of; says what is missing, and stops where nothing could be measured."""
    versions = {package: _version(package) for package in PACKAGES}
    missing = [package for package, found in versions.items() if found is None]
    print(f"missing: {', '.join(missing) or 'nothing'}", flush=True)
    if needed := {"pytest", "pytest-benchmark"}.intersection(missing):
        raise SystemExit(f"nothing can be measured without {' and '.join(sorted(needed))}")
    from benchmarks import harness  # needs them

    return {
        "device": torch.cuda.get_device_name() if harness.ON_GPU else f"{platform.machine()} CPU, small sizes",
        "bandwidth_bytes_per_s": harness.bandwidth() if harness.ON_GPU else None,
        "commit": _commit(),
        "versions": {"python": platform.python_version(), "CUDA": torch.version.cuda, **versions},
        "missing": missing,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=ROOT, capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    return described.stdout.strip() or "unknown"


def compared(summary: dict[str, Any]) -> dict[str, Any]:
    """Give each case its time and memory as shares of what the release, or stock PyTorch, takes for the same."""

    def key(case: dict[str, Any]) -> tuple[str, str, str]:
        return case["op"], case["case"], case["pass"]

    stock = {key(case): case for case in summary["cases"] if case["provider"] in ("release", "naive")}
    for case in summary["cases"]:
        release = stock.get(key(case), {})
        for ratio, field in (("time_ratio", "median_ms"), ("memory_ratio", "peak_bytes")):
            mine, theirs = case[field], release.get(field)
            case[ratio] = mine / theirs if mine is not None and theirs else None
    return summary


def write(out: Path, summary: dict[str, Any], raw: dict[str, Any]) -> None:
    """Write the results; a summary that breaks the schema is an error that loses no measurement."""
    write_atomically(out / "raw.json", lambda file: file.write(json.dumps(raw).encode()))
    try:
        schema.check(SCHEMA, summary)
    except ValueError as error:
        write_atomically(out / "invalid.json", lambda file: file.write(json.dumps(summary, indent=1).encode()))
        raise ValueError(f"the summary breaks the schema, see {out / 'invalid.json'}: {error}") from error
    write_atomically(out / "summary.json", lambda file: file.write(json.dumps(summary, indent=1).encode()))
    write_atomically(out / "summary.md", lambda file: file.write(table(summary).encode()))


def table(summary: dict[str, Any]) -> str:
    """The summary as Markdown."""
    about, tests = summary["machine"], summary["tests"]
    versions = ", ".join(f"{name} {found}" for name, found in about["versions"].items() if found)
    counts = ", ".join(f"{count} {kind}" for kind, count in tests["counts"].items())
    skipped = Counter(case["reason"] for case in summary["cases"] if case["status"] == "skipped")
    lines = [
        f"# Benchmarks on {about['device']}",
        "",
        f"Made by `python -m benchmarks.gpu` in {summary['seconds']:.0f} s; commit {about['commit']}; {versions};",
        f"missing: {', '.join(about['missing']) or 'nothing'}. ms: median of a call ± interquartile range. device ms:",
        "of the GPU alone, of calls below 20 ms. Roofline: the share of it that the fewest bytes take at the memory's",
        "bandwidth. x release: shares of what the release, or stock PyTorch, takes.",
        "",
        f"- Tests: {tests['status']}, {tests['seconds']:.0f} s, {counts}",
        *(f"  - {failure}" for failure in tests["failures"]),
        *(f"- `{file['file']}`: {file['status']}, {file['seconds']:.0f} s" for file in summary["files"]),
        *(f"- {count} cases skipped: {reason}" for reason, count in skipped.items()),
    ]
    cases = sorted(
        (c for c in summary["cases"] if c["status"] != "skipped"), key=lambda c: (c["op"], c["pass"], c["case"])
    )
    for (op, direction), group in groupby(cases, key=lambda case: (case["op"], case["pass"])):
        lines += ["", f"## {op}, {direction}", ""]
        lines += ["| case | size | provider | ms | x release | device ms | roofline | peak MiB | x release |"]
        lines += ["|---|---|---|---:|---:|---:|---:|---:|---:|"]
        lines += [_row(case) for case in group]
    return "\n".join(lines) + "\n"


def _row(case: dict[str, Any]) -> str:
    if case["status"] == "measured":
        peak = case["peak_bytes"]
        cells = [f"{case['median_ms']:.4g} ± {case['iqr_ms']:.2g}", _number(case["time_ratio"], ".3g")]
        cells += [_number(case["device_ms"], ".4g"), _number(case["share_of_roofline"], ".0%")]
        cells += [_number(peak and peak / 2**20, ".1f"), _number(case["memory_ratio"], ".3g")]
    else:
        cells = [f"failed: {' '.join(case['reason'].split())[:120]}".replace("|", "/"), *[""] * 5]
    return f"| {' | '.join([case['case'], case['size'] or '', case['provider'], *cells])} |"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    main()
