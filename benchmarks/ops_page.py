"""The table of what each op costs, from ``benchmarks/results/ops_*.json``, the summaries of ``benchmarks.gpu``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.cost_page import heading, rows_table

PROVIDERS = ("release", "reference", "compiled", "fused")


def tables(root: Path) -> dict[str, str]:
    """The parts of docs/measured/ops.md."""
    paths = {kind: root / f"benchmarks/results/ops_{kind}.json" for kind in ("gpu", "cpu")}
    texts = [op_table(json.loads(path.read_text())) for path in paths.values() if path.exists()]
    if not paths["gpu"].exists():
        texts.append("**On a GPU: not measured yet**; `python -m benchmarks.gpu --out DIR` measures it.\n")
    return {"ops": "\n".join(texts)}


def op_table(summary: dict[str, Any]) -> str:
    """Milliseconds forward and backward (forward, where an op has no gradient), by op, case and provider."""
    measured = [case for case in summary["cases"] if case["status"] == "measured"]
    both = {case["op"] for case in measured if case["pass"] == "both"}
    lines: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for case in measured:
        if case["pass"] == ("both" if case["op"] in both else "forward"):
            lines.setdefault((case["op"], case["case"]), {})[case["provider"]] = case
    rows = []
    for (op, name), cases in sorted(lines.items()):
        times = {provider: case["median_ms"] for provider, case in cases.items()}
        if times.keys() == {"fused"}:  # compared on a page of its own, docs/design/so3.md
            continue
        faster = f"{times['reference'] / times['fused']:.1f}" if {"reference", "fused"} <= times.keys() else "-"
        cells = [f"{times[p]:.3g} ± {cases[p]['iqr_ms']:.1g}" if p in times else "-" for p in PROVIDERS]
        rows.append([f"`{op}`", f"{name}: {next(iter(cases.values()))['size']}", *cells, faster])
    head = ["op", "case", "release or stock, ms", *(f"{p}, ms" for p in PROVIDERS[1:]), "reference / fused"]
    return heading(summary) + rows_table(head, rows)
