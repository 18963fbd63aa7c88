"""All cases that a machine measured are compared with the release's, and written as JSON and as Markdown."""

from __future__ import annotations

import json
from collections import Counter
from itertools import groupby
from pathlib import Path

from benchmarks.common import results
from benchmarks.common.results import Json
from inverseform_fast.files import write_atomically

SCHEMA = results.read(Path(__file__).with_name("schema.json"))


def compared(summary: Json) -> Json:
    """Give each case its time and memory as shares of what the release, or stock PyTorch, takes for the same."""

    def key(case: Json) -> tuple[str, str, str]:
        return case["op"], case["case"], case["pass"]

    stock = {key(case): case for case in summary["cases"] if case["provider"] in ("release", "naive")}
    for case in summary["cases"]:
        release = stock.get(key(case), {})
        for ratio, field in (("time_ratio", "median_ms"), ("memory_ratio", "peak_bytes")):
            measured, baseline = case[field], release.get(field)
            case[ratio] = measured / baseline if measured is not None and baseline else None
    return summary


def write(out: Path, summary: Json, raw: Json) -> None:
    """Write the results; a summary that breaks the schema is an error that loses no measurement."""
    write_atomically(out / "raw.json", lambda file: file.write(json.dumps(raw).encode()))
    try:
        results.check(SCHEMA, summary)
    except ValueError as error:
        results.write(out / "invalid.json", summary)
        raise ValueError(f"the summary breaks the schema, see {out / 'invalid.json'}: {error}") from error
    results.write(out / "summary.json", summary)
    write_atomically(out / "summary.md", lambda file: file.write(table(summary).encode()))


def table(summary: Json) -> str:
    """Write the summary as Markdown."""
    about, tests = summary["machine"], summary["tests"]
    versions = ", ".join(f"{name} {found}" for name, found in about["versions"].items() if found)
    skipped = Counter(case["reason"] for case in summary["cases"] if case["status"] == "skipped")
    lines = [
        f"# Benchmarks on {about['device']}",
        "",
        f"`python -m benchmarks.gpu` made this page in {summary['seconds']:.0f} s from commit {about['commit']}, with",
        f"{versions}. Missing packages: {', '.join(about['missing']) or 'none'}.",
        "",
        "- *ms* is the median time of a call ± its interquartile range.",
        "- *device ms* is the time of the GPU alone; it is measured for calls below 20 ms.",
        "- *roofline* is the share of the memory's bandwidth that a call reaches if it moves as few bytes as it can.",
        "- *x release* is a share of the time or memory of the release, or of stock PyTorch if it lacks the op.",
        "",
        f"- Tests: {tests['status']}, {tests['seconds']:.0f} s, {_counts(tests['counts'])}",
        *(f"  - `{file}`: {_counts(outcomes)}" for file, outcomes in tests.get("files", {}).items()),
        *(f"  - failed: {failure}" for failure in tests["failures"]),
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


def _row(case: Json) -> str:
    if case["status"] == "measured":
        peak = case["peak_bytes"]
        cells = [f"{case['median_ms']:.4g} ± {case['iqr_ms']:.2g}", _number(case["time_ratio"], ".3g")]
        cells += [_number(case["device_ms"], ".4g"), _number(case["share_of_roofline"], ".0%")]
        cells += [_number(peak and peak / 2**20, ".1f"), _number(case["memory_ratio"], ".3g")]
    else:
        cells = [f"failed: {' '.join(case['reason'].split())[:120]}".replace("|", "/"), *[""] * 5]
    return f"| {' | '.join([case['case'], case['size'] or '', case['provider'], *cells])} |"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
