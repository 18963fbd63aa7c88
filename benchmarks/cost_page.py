"""Tables and pictures of what a step costs, from ``benchmarks/results/training_*.json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.alignment import table
from benchmarks.bench_training import fitted, goals
from inverseform_fast.bench.steps import PHASES, PROVIDERS

# Of Okabe and Ito's palette, which the colour-blind can tell apart.
COLORS = dict(zip(PROVIDERS, ("#999999", "#D55E00", "#0072B2", "#56B4E9", "#009E73"), strict=True))
PHASE_COLORS = dict(zip(PHASES, ("#CC79A7", "#BBBBBB", "#0072B2", "#56B4E9", "#F0E442"), strict=True))
AXES = {
    "images": "images in the batch",
    "megapixels": "megapixels an image",
    "classes": "classes",
    "tiles": "tiles an image",
}
NO_GPU = "**On a GPU: not measured yet**; `python -m benchmarks.gpu --out DIR` measures it.\n"
Result = dict[str, Any]


def results(root: Path) -> dict[str, Result]:
    """What was measured, by kind of machine: ``gpu``, ``cpu``."""
    paths = {kind: root / f"benchmarks/results/training_{kind}.json" for kind in ("gpu", "cpu")}
    return {kind: json.loads(path.read_text()) for kind, path in paths.items() if path.exists()}


def tables(root: Path) -> dict[str, str]:
    """The parts of docs/measured/benchmarks.md."""
    found = results(root)
    parts: dict[str, Callable[[Result], str]] = {
        "conditions": conditions,
        "goals": goal_table,
        "steps": step_tables,
        "losses": loss_tables,
        "largest": largest_table,
        "scaling": scaling_table,
        "losing": losing_cases,
    }
    texts = {name: "\n".join(make(each) for each in found.values()) for name, make in parts.items()}
    if "gpu" not in found:
        texts["conditions"] += f"\n{NO_GPU}"
    for part, what in (("steps", "Phases of a step, stacked"), ("scaling", "Time of the loss alone and fitted lines")):
        links = "".join(f"![{what}, {kind.upper()}](benchmarks_{part}_{kind}.png)\n\n" for kind in found)
        texts[part] = links + texts[part]
    return texts


def conditions(result: Result) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items() if found)
    idle = [f"{r['provider']} {r['status']}" for r in result["steps"][0]["steps"] if r not in taking_part([r])]
    return (
        f"- **{machine['device']}**, {threads(machine)}; {result['rounds']} rounds; commit {machine['commit']}; "
        f"{'. '.join([versions, *idle])}.\n"
    )


def threads(machine: dict[str, Any]) -> str:
    return f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"


def heading(result: Result) -> str:
    return f"**{result['machine']['device']}**\n\n"


def goal_table(result: Result) -> str:
    def cells(goal: dict[str, Any]) -> list[str]:
        if goal["found"] is None:
            return [f"{goal['asked']:.2g}", "not measured", "-"]
        return [f"{goal['asked']:.2g}", f"{goal['found']:.3g}", "met" if goal["met"] else "**not met**"]

    return heading(result) + table(["at most", "asked", "measured", ""], {g["text"]: cells(g) for g in goals(result)})


def step_tables(result: Result) -> str:
    head = ["setting", "loss", "step, ms", "x stock", *PHASES, "images/s", "peak MiB"]
    lines = []
    for step in result["steps"]:
        stock = step["steps"][0].get("ms")
        for row in taking_part(step["steps"]):
            cells = [row["status"], *[""] * 8]
            if row["status"] == "measured":
                cells = [f"{row['ms']:.1f} ± {row['iqr_ms']:.1f}", f"{row['ms'] / stock:.2f}" if stock else "-"]
                cells += [f"{row['phases_ms'][phase]:.1f}" for phase in PHASES]
                cells += [f"{row['images_per_second']:.2f}", f"{row['peak_bytes'] / 2**20:.0f}"]
            lines.append([described(step), row["provider"], *cells])
    return heading(result) + rows_table(head, lines)


def loss_tables(result: Result) -> str:
    head = ["setting", "loss", "ms", "x stock", "targets, ms", "x release with targets", "peak MiB", "x stock"]
    lines = []
    for step in result["steps"]:
        rows = {row["provider"]: row for row in step["losses"]}
        stock, release = (rows[name] if rows[name]["status"] == "measured" else None for name in ("stock", "release"))
        for row in taking_part(step["losses"]):
            cells = [row["status"], *[""] * 5]
            if row["status"] == "measured":
                whole = row["ms"] + row["targets_ms"]
                cells = [f"{row['ms']:.1f} ± {row['iqr_ms']:.1f}", ratio(row["ms"], stock and stock["ms"])]
                cells += [f"{row['targets_ms']:.1f}"]
                cells += [ratio(whole, release and release["ms"] + release["targets_ms"])]
                cells += [f"{row['peak_bytes'] / 2**20:.1f}", ratio(row["peak_bytes"], stock and stock["peak_bytes"])]
            lines.append([described(step), row["provider"], *cells])
    return heading(result) + rows_table(head, lines)


def taking_part(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if not row["status"].startswith("cannot run here")]


def ratio(mine: float, theirs: float | None) -> str:
    return f"{mine / theirs:.3g}" if theirs else "-"


def described(step: dict[str, Any]) -> str:
    setting = step["setting"]
    height, width = setting["crop"]
    mode = ", headless" if setting["headless"] else ""
    amp = "" if setting["amp"] == "none" else f", {setting['amp']}"
    return f"{setting['backbone']}, {setting['batch_size']} x {height}x{width}, C {setting['classes']}{mode}{amp}"


def rows_table(head: list[str], lines: list[list[str]]) -> str:
    marks = ["---", "---", *["---:"] * (len(head) - 2)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, marks, *lines))


def largest_table(result: Result) -> str:
    largest = result["largest"]
    limit = "the GPU's memory" if largest["bytes"] is None else f"{largest['bytes'] / 2**30:g} GiB of tensors"
    batches = largest["batch"]
    stock = batches.get("stock")
    cells = {name: [str(n), f"{n / stock:.2f}" if stock else "-"] for name, n in batches.items()}
    text = f"{described({'setting': largest['setting'] | {'batch_size': 'N'}})}, in {limit}:\n\n"
    return heading(result) + text + table(["loss", "largest batch", "x stock"], cells)


def scaled(result: Result, axis: str) -> dict[str, tuple[list[float], list[float]]]:
    """By provider, what the axis counts and the milliseconds."""
    points = sorted((p for p in result["scaling"] if p["axis"] == axis), key=lambda point: point["x"])
    # What has no tiles of our size does not depend on them.
    tiled = [name for name in PROVIDERS if axis != "tiles" or name not in ("stock", "release")]
    names = [name for name in tiled if points and all(name in point["ms"] for point in points)]
    return {name: ([p["x"] for p in points], [p["ms"][name] for p in points]) for name in names}


def scaling_table(result: Result) -> str:
    rows = {}
    for axis, what in AXES.items():
        for name, (x, ms) in scaled(result, axis).items():
            fit = fitted(x, ms)
            cells = [f"{fit['fixed_ms']:.1f}", f"{fit['ms_per_unit']:.2f}", f"{fit['r2']:.3f}"]
            rows[f"{what}, {name}"] = [f"{min(x):g} to {max(x):g}", *cells]
    return heading(result) + table(["time of the loss alone", "range", "fixed, ms", "ms for each", "R²"], rows)


def losing_cases(result: Result) -> str:
    """Where ours takes more than stock or than the release: time, memory; a smaller largest batch; what failed."""
    lines = []
    on_gpu = result["machine"]["bandwidth_bytes_per_s"] is not None
    ours = ("compiled", "fused") if on_gpu else ("reference", "compiled", "fused")
    batches = result["largest"]["batch"]
    for step in result["steps"]:
        for kind, what in (("steps", "step"), ("losses", "loss alone")):
            rows = {row["provider"]: row for row in step[kind] if row["status"] == "measured"}
            for mine in ours:
                for theirs in ("stock", "release"):
                    for field, unit in (("ms", "time"), ("peak_bytes", "memory")):
                        if mine in rows and theirs in rows and (x := rows[mine][field] / rows[theirs][field]) > 1:
                            lines.append([described(step), f"{mine} to {theirs}", f"{unit} of the {what}", f"{x:.2f}"])
        for kind in ("steps", "losses"):
            for row in step[kind]:
                if row["provider"] in ours and not row["status"].startswith(("measured", "cannot run")):
                    lines.append([described(step), row["provider"], row["status"], ""])
    for mine in ours:
        for theirs in ("stock", "release"):
            if batches.get(mine, 0) < batches.get(theirs, 0) and mine in batches:
                what = described({"setting": result["largest"]["setting"] | {"batch_size": "N"}})
                lines.append([what, f"{mine} to {theirs}", "largest batch", f"{batches[mine] / batches[theirs]:.2f}"])
    return heading(result) + (rows_table(["setting", "loss", "what", "x"], lines) if lines else "None.\n")


def summary(root: Path) -> str:
    """README's table: time of a step and of the loss, its memory, by provider, at the first setting of each machine."""
    texts = []
    for result in results(root).values():
        step = result["steps"][0]
        losses = {row["provider"]: row for row in step["losses"]}
        stock, stock_loss = step["steps"][0], step["losses"][0]
        rows = {}
        for row in step["steps"]:
            loss = losses[row["provider"]]
            if row["status"] == loss["status"] == "measured":
                targets = f" + {loss['targets_ms']:.0f} on the host" if row["provider"] == "release" else ""
                rows[f"{row['provider']}: {PROVIDERS[row['provider']]}"] = [
                    f"{row['ms']:.0f}", f"{row['ms'] / stock['ms']:.2f}", f"{loss['ms']:.0f}{targets}",
                    f"{loss['peak_bytes'] / 2**20:.0f}", f"{loss['peak_bytes'] / stock_loss['peak_bytes']:.2f}",
                ]  # fmt: skip
        head = [described(step), "step, ms", "x stock", "loss alone, ms", "its memory, MiB", "x stock"]
        texts.append(f"On {result['machine']['device']}, {threads(result['machine'])}:\n\n{table(head, rows)}")
    links = "".join(
        f"\n![Phases of a step, {kind.upper()}](docs/measured/benchmarks_steps_{kind}.png)\n" for kind in results(root)
    )
    return "\n".join(texts) + links + ("" if "gpu" in results(root) else f"\n{NO_GPU}")


def pictures(root: Path) -> dict[str, tuple[tuple[Path, ...], Callable[[], Figure]]]:
    drawn = {}
    for kind, result in results(root).items():
        sources = (root / f"benchmarks/results/training_{kind}.json",)
        drawn[f"benchmarks_steps_{kind}.png"] = sources, partial(draw_steps, result)
        drawn[f"benchmarks_scaling_{kind}.png"] = sources, partial(draw_scaling, result)
    return drawn


def draw_steps(result: Result) -> Figure:
    """The phases of a step, stacked, a bar for each provider and a panel for each setting."""
    steps = result["steps"]
    columns = 3
    figure = Figure(figsize=(13, 2.3 * -(-len(steps) // columns) + 1.2), layout="constrained")
    axes = figure.subplots(-(-len(steps) // columns), columns, squeeze=False).flatten()
    for axis, step in zip(axes, steps, strict=False):
        rows = [row for row in step["steps"] if row["status"] == "measured"][::-1]
        names, left = [row["provider"] for row in rows], [0.0] * len(rows)
        for phase in PHASES:
            widths = [row["phases_ms"][phase] for row in rows]
            axis.barh(names, widths, left=left, color=PHASE_COLORS[phase], label=phase)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axis.set_title(described(step), fontsize=10)
        axis.set_xlabel("ms")
    for axis in axes[len(steps) :]:
        axis.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(PHASES), frameon=False)
    return figure


def draw_scaling(result: Result) -> Figure:
    """The time of the loss alone against each axis: points measured, lines fitted."""
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    for axis, (name, what) in zip(figure.subplots(1, len(AXES)), AXES.items(), strict=True):
        for provider, (x, ms) in scaled(result, name).items():
            fit, ends = fitted(x, ms), [min(x), max(x)]
            axis.plot(x, ms, "o", color=COLORS[provider], label=provider)
            axis.plot(ends, [fit["fixed_ms"] + fit["ms_per_unit"] * end for end in ends], color=COLORS[provider])
        axis.set(xlabel=what, ylabel="loss alone, ms" if name == "images" else None)
        axis.set_ylim(bottom=0)
        axis.grid(color="0.9")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(PROVIDERS), frameon=False)
    return figure
