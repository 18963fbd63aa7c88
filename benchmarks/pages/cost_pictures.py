"""Pictures of what a step costs, from ``benchmarks/results/training_*.json``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.common import results
from benchmarks.common.results import Json
from benchmarks.pages.cost import AXES, described, scaled
from benchmarks.pages.drawing import BLUE, GREEN, GREY, LIGHT_BLUE, LIGHT_GREY, ORANGE, PINK, YELLOW, Drawings
from benchmarks.training.goals import fitted
from inverseform_fast.bench.setting import PROVIDERS
from inverseform_fast.bench.steps import PHASES

COLORS = dict(zip(PROVIDERS, (GREY, ORANGE, BLUE, LIGHT_BLUE, GREEN), strict=True))
PHASE_COLORS = dict(zip(PHASES, (PINK, LIGHT_GREY, BLUE, LIGHT_BLUE, YELLOW), strict=True))


def pictures(root: Path) -> Drawings:
    drawn: Drawings = {}
    for kind, result in results.by_kind(root, "training").items():
        sources = (results.path_of(root, "training", kind),)
        drawn[f"benchmarks_steps_{kind}.png"] = sources, partial(draw_steps, result)
        drawn[f"benchmarks_scaling_{kind}.png"] = sources, partial(draw_scaling, result)
    return drawn


def draw_steps(result: Json) -> Figure:
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


def draw_scaling(result: Json) -> Figure:
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
