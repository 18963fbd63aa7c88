"""Tables of what a step costs, from ``benchmarks/results/training_*.json``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.common import markdown, results
from benchmarks.common.markdown import rows_table, table
from benchmarks.common.results import Json
from benchmarks.training.goals import fitted, goals
from inverseform_fast.bench.setting import PROVIDERS
from inverseform_fast.bench.steps import PHASES

AXES = {
    "images": "images in the batch",
    "megapixels": "megapixels an image",
    "classes": "classes",
    "tiles": "tiles an image",
}
NO_GPU = "**No GPU has been measured yet**; `python -m benchmarks.gpu --out DIR` measures one.\n"
MORE = "This is the first setting. [The appendix](benchmarks_tables.md#{anchor}) has all of them.\n"
OURS = ("reference", "compiled", "fused")


def parts(root: Path) -> dict[str, str]:
    """The parts of docs/measured/benchmarks.md: short tables, of the first setting or of the fused loss."""
    found = results.by_kind(root, "training")
    made: dict[str, Callable[[Json], str]] = {
        "conditions": conditions,
        "goals": goal_table,
        "steps": lambda result: step_table(result, result["steps"][:1]),
        "losses": lambda result: loss_table(result, result["steps"][:1]),
        "largest": largest_table,
        "scaling": scaling_table,
        "losing": lambda result: losing_cases(result, ("fused",)),
    }
    texts = {name: "\n".join(make(each) for each in found.values()) for name, make in made.items()}
    if "gpu" not in found:
        texts["conditions"] += f"\n{NO_GPU}"
    texts["steps"] += "\n" + MORE.format(anchor="the-whole-step")
    texts["losses"] += "\n" + MORE.format(anchor="the-loss-alone")
    texts["losing"] += (
        "\nThese are the cases of the fused loss. [The appendix](benchmarks_tables.md#losing-cases) also has those of\n"
        "the reference and of `torch.compile`.\n"
    )
    for part, what in (("steps", "Phases of a step, stacked"), ("scaling", "Time of the loss alone and fitted lines")):
        links = "".join(f"![{what}, {kind.upper()}](benchmarks_{part}_{kind}.png)\n\n" for kind in found)
        texts[part] = links + texts[part]
    return texts


def appendix(root: Path) -> str:
    """docs/measured/benchmarks_tables.md: every setting and every losing case."""
    sections: dict[str, Callable[[Json], str]] = {
        "The whole step": lambda result: step_table(result, result["steps"]),
        "The loss alone": lambda result: loss_table(result, result["steps"]),
        "Losing cases": lambda result: losing_cases(result, OURS),
    }
    found = results.by_kind(root, "training").values()
    texts = [f"## {title}\n\n" + "\n".join(make(each) for each in found) for title, make in sections.items()]
    return markdown.appendix("What the loss costs: every setting", "benchmarks.md", "What the loss costs", *texts)


def conditions(result: Json) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items() if found)
    idle = "".join(
        f" The {row['provider']} loss {row['status']}."
        for row in result["steps"][0]["steps"]
        if row not in taking_part([row])
    )
    return (
        f"- **{machine['device']}**: each figure is the median of {result['rounds']} rounds on {threads(machine)}, "
        f"measured at commit {machine['commit']} with {versions}.{idle}\n"
    )


def threads(machine: Json) -> str:
    return f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"


def heading(result: Json) -> str:
    return f"**{result['machine']['device']}**\n\n"


def goal_table(result: Json) -> str:
    rows = {
        goal.text: [
            f"{goal.asked:.2g}",
            "not measured" if goal.found is None else f"{goal.found:.3g}",
            "-" if goal.found is None else "met" if goal.met else "**not met**",
        ]
        for goal in goals(result)
    }
    return heading(result) + table(["ratio", "at most", "measured", ""], rows)


def step_table(result: Json, steps: Iterable[Json]) -> str:
    head = ["setting", "loss", "step, ms", "x stock", *PHASES, "images/s", "peak MiB"]
    lines = []
    for step in steps:
        stock = step["steps"][0].get("ms")
        for row in taking_part(step["steps"]):
            cells = [row["status"], *[""] * 8]
            if row["status"] == "measured":
                cells = [f"{row['ms']:.1f} ± {row['iqr_ms']:.1f}", f"{row['ms'] / stock:.2f}" if stock else "-"]
                cells += [f"{row['phases_ms'][phase]:.1f}" for phase in PHASES]
                cells += [f"{row['images_per_second']:.2f}", f"{row['peak_bytes'] / 2**20:.0f}"]
            lines.append([described(step), row["provider"], *cells])
    return heading(result) + rows_table(head, lines)


def loss_table(result: Json, steps: Iterable[Json]) -> str:
    head = ["setting", "loss", "ms", "x stock", "targets, ms", "x release with targets", "peak MiB", "peak x stock"]
    lines = []
    for step in steps:
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


def taking_part(rows: list[Json]) -> list[Json]:
    return [row for row in rows if not row["status"].startswith("cannot run here")]


def ratio(mine: float, theirs: float | None) -> str:
    return f"{mine / theirs:.3g}" if theirs else "-"


def described(step: Json) -> str:
    setting = step["setting"]
    height, width = setting["crop"]
    mode = ", headless" if setting["headless"] else ""
    amp = "" if setting["amp"] == "none" else f", {setting['amp']}"
    return f"{setting['backbone']}, {setting['batch_size']} x {height}x{width}, {setting['classes']} classes{mode}{amp}"


def largest_table(result: Json) -> str:
    largest = result["largest"]
    limit = "the GPU's memory" if largest["bytes"] is None else f"{largest['bytes'] / 2**30:g} GiB"
    batches = largest["batch"]
    stock = batches.get("stock")
    cells = {name: [str(n), f"{n / stock:.2f}" if stock else "-"] for name, n in batches.items()}
    setting = described({"setting": largest["setting"] | {"batch_size": "N"}})
    text = f"The setting is {setting}. The tensors of a step must fit into {limit}.\n\n"
    return heading(result) + text + table(["loss", "largest batch", "x stock"], cells)


def scaled(result: Json, axis: str) -> dict[str, tuple[list[float], list[float]]]:
    """By provider, what the axis counts and the milliseconds."""
    points = sorted((p for p in result["scaling"] if p["axis"] == axis), key=lambda point: point["x"])
    # What has no tiles of our size does not depend on them.
    tiled = [name for name in PROVIDERS if axis != "tiles" or name not in ("stock", "release")]
    names = [name for name in tiled if points and all(name in point["ms"] for point in points)]
    return {name: ([p["x"] for p in points], [p["ms"][name] for p in points]) for name in names}


def scaling_table(result: Json) -> str:
    rows = {}
    for axis, what in AXES.items():
        for name, (x, ms) in scaled(result, axis).items():
            fit = fitted(x, ms)
            cells = [f"{fit['fixed_ms']:.1f}", f"{fit['ms_per_unit']:.2f}", f"{fit['r2']:.3f}"]
            rows[f"{what}, {name}"] = [f"{min(x):g} to {max(x):g}", *cells]
    return heading(result) + table(["time of the loss alone", "range", "fixed, ms", "ms for each", "R²"], rows)


def losing_cases(result: Json, ours: tuple[str, ...]) -> str:
    """Where ours takes more than stock or than the release: time, memory; a smaller largest batch; what failed."""
    if result["machine"]["bandwidth_bytes_per_s"] is not None:  # the reference is what a GPU runs only without Triton
        ours = tuple(name for name in ours if name != "reference")
    lines = [line for step in result["steps"] for line in _losing_times(step, ours) + _failures(step, ours)]
    lines += _losing_batches(result["largest"], ours)
    head = ["setting", "compared", "what", "ratio"]
    return heading(result) + (rows_table(head, lines) if lines else "There are none.\n")


def _losing_times(step: Json, ours: tuple[str, ...]) -> list[list[str]]:
    lines = []
    for kind, what in (("steps", "step"), ("losses", "loss alone")):
        rows = {row["provider"]: row for row in step[kind] if row["status"] == "measured"}
        pairs = [(mine, theirs) for mine in ours for theirs in ("stock", "release") if {mine, theirs} <= rows.keys()]
        for mine, theirs in pairs:
            for field, unit in (("ms", "time"), ("peak_bytes", "memory")):
                if (x := rows[mine][field] / rows[theirs][field]) > 1:
                    lines.append([described(step), f"{mine} to {theirs}", f"{unit} of the {what}", f"{x:.2f}"])
    return lines


def _failures(step: Json, ours: tuple[str, ...]) -> list[list[str]]:
    return [
        [described(step), row["provider"], row["status"], ""]
        for row in step["steps"] + step["losses"]
        if row["provider"] in ours and not row["status"].startswith(("measured", "cannot run"))
    ]


def _losing_batches(largest: Json, ours: tuple[str, ...]) -> list[list[str]]:
    what, batches = described({"setting": largest["setting"] | {"batch_size": "N"}}), largest["batch"]
    return [
        [what, f"{mine} to {theirs}", "largest batch", f"{batches[mine] / batches[theirs]:.2f}"]
        for mine in ours
        for theirs in ("stock", "release")
        if mine in batches and batches[mine] < batches.get(theirs, 0)
    ]


def summary(root: Path) -> str:
    """README's table, in the first setting: of the GPU, if one was measured, else of the CPU."""
    found = results.by_kind(root, "training")
    result = next(iter(found.values()))
    step = result["steps"][0]
    losses = {row["provider"]: row for row in step["losses"]}
    stock = step["steps"][0]
    rows = {}
    for row in step["steps"]:
        name, loss = row["provider"], losses[row["provider"]]
        if name != "compiled" and row["status"] == loss["status"] == "measured":
            targets = f" + {loss['targets_ms']:.0f} on the host" if name == "release" else ""
            cells = [f"{row['ms']:.0f}", f"{row['ms'] / stock['ms']:.2f}", f"{loss['ms']:.0f}{targets}"]
            rows[f"{name}: {PROVIDERS[name]}"] = [*cells, f"{loss['peak_bytes'] / 2**20:.0f}"]
    note = "" if "gpu" in found else "No GPU has been measured yet. "
    return (
        f"{note}These are times of a training step on {threads(result['machine'])} of {result['machine']['device']}. "
        f"The backbone, batch and classes are: {described(step)}.\n\n"
        + table(["loss", "step, ms", "x stock", "loss alone, ms", "its memory, MiB"], rows)
    )
