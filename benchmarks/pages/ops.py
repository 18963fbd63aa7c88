"""The tables of what each op costs, from ``benchmarks/results/ops_*.json``, the summaries of ``benchmarks.gpu``."""

from __future__ import annotations

from pathlib import Path

from benchmarks.common import markdown, results
from benchmarks.common.markdown import rows_table
from benchmarks.common.results import Json
from benchmarks.pages.cost import NO_GPU, heading

PROVIDERS = ("release", "reference", "compiled", "fused")
HEAD = ["op", "case", "release or stock, ms", *(f"{name}, ms" for name in PROVIDERS[1:]), "reference / fused"]


def parts(root: Path) -> dict[str, str]:
    """The parts of docs/measured/ops.md: one case of each op."""
    found = results.by_kind(root, "ops")
    texts = [heading(each) + op_table(each, first_only=True) for each in found.values()]
    texts.append("The first case of each op is shown. [The appendix](ops_tables.md) has all of them.\n")
    return {"ops": "\n".join(texts + ([] if "gpu" in found else [NO_GPU]))}


def appendix(root: Path) -> str:
    texts = [heading(each) + op_table(each) for each in results.by_kind(root, "ops").values()]
    return markdown.appendix("What each op costs: every case", "ops.md", "What each op costs", *texts)


def op_table(summary: Json, first_only: bool = False) -> str:
    """Milliseconds forward and backward (forward, where an op has no gradient), by op, case and provider."""
    measured = [case for case in summary["cases"] if case["status"] == "measured"]
    both = {case["op"] for case in measured if case["pass"] == "both"}
    lines: dict[tuple[str, str], dict[str, Json]] = {}
    for case in measured:
        if case["pass"] == ("both" if case["op"] in both else "forward"):
            lines.setdefault((case["op"], case["case"]), {})[case["provider"]] = case
    if first_only:
        # Rotations have other peers, and are compared on a page of their own, docs/design/so3.md.
        compared = [key for key, cases in lines.items() if cases.keys() & {"release", "reference"}]
        first = {key[0]: key for key in reversed(compared)}
        lines = {key: lines[key] for key in first.values()}
    return rows_table(HEAD, [_row(*key, cases) for key, cases in sorted(lines.items())])


def _row(op: str, name: str, cases: dict[str, Json]) -> list[str]:
    times = {provider: case["median_ms"] for provider, case in cases.items()}
    faster = f"{times['reference'] / times['fused']:.1f}" if {"reference", "fused"} <= times.keys() else "-"
    cells = [f"{times[p]:.3g} ± {cases[p]['iqr_ms']:.1g}" if p in times else "-" for p in PROVIDERS]
    return [f"`{op}`", f"{name}: {next(iter(cases.values()))['size']}", *cells, faster]
