"""Pictures of what the loss brings, from ``benchmarks/results/camvid_study_*.json``."""

from __future__ import annotations

import statistics
from functools import partial
from itertools import cycle
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.common import results
from benchmarks.pages.drawing import (
    AMBER,
    BLACK,
    BLUE,
    DARK_GREY,
    GREEN,
    LIGHT_BLUE,
    LIGHT_GREY,
    ORANGE,
    PINK,
    YELLOW,
    Drawings,
)  # fmt: skip
from benchmarks.pages.worth import SHOWN, Runs, by_arm
from benchmarks.studies.camvid_study import ARMS

COLORS = (BLACK, ORANGE, BLUE, AMBER, GREEN, LIGHT_BLUE, PINK, YELLOW, DARK_GREY, LIGHT_GREY)
STYLES = ("-", "--", ":")
CURVES = {"eval/miou": "mIoU, %", "eval/mba": "mBA, %", "eval/boundary_f_3px": "boundary F at 3 px, %"}


def pictures(root: Path) -> Drawings:
    drawn: Drawings = {}
    for kind, result in results.by_kind(root, "camvid_study").items():
        runs, sources = by_arm(result["runs"]), (results.path_of(root, "camvid_study", kind),)
        drawn[f"results_scores_{kind}.png"] = sources, partial(draw_scores, runs)
        drawn[f"results_curves_{kind}.png"] = sources, partial(draw_curves, runs)
    return drawn


def draw_scores(runs: dict[str, Runs]) -> Figure:
    """A dot for each run and a line at the mean, a panel for each metric."""
    figure = Figure(figsize=(14, 0.42 * len(runs) + 1.4), layout="constrained")
    for axis, (column, title) in zip(figure.subplots(1, len(SHOWN), sharey=True), SHOWN.items(), strict=True):
        for place, (each, color) in enumerate(zip(runs.values(), cycle(COLORS))):
            values = [100 * run["metrics"][column] for run in each]
            axis.plot(values, [place] * len(values), "o", color=color, markersize=5)
            axis.plot([statistics.mean(values)] * 2, [place - 0.3, place + 0.3], color=color, linewidth=2)
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("%")
        axis.grid(axis="x", color="0.9")
    figure.axes[0].set_yticks(range(len(runs)), [ARMS[name].name for name in runs])
    figure.axes[0].invert_yaxis()
    return figure


def draw_curves(runs: dict[str, Runs]) -> Figure:
    """Scores on the test split during training, and the terms of the loss: means over seeds, thin lines of one seed."""
    figure = Figure(figsize=(14, 7.5), layout="constrained")
    axes = figure.subplots(2, 3)
    terms = {"loss/segmentation": "cross-entropy", "loss/boundary": "boundary BCE", "loss/inverseform": "InverseForm"}
    for axis, (tag, what) in zip(axes.flatten(), (CURVES | terms).items(), strict=True):
        scale = 100 if tag in CURVES else 1
        for (name, each), color, style in zip(runs.items(), cycle(COLORS), cycle(STYLES), strict=False):
            curves = [dict(run["curves"][tag]) for run in each if tag in run["curves"]]
            steps = sorted(set.intersection(*map(set, curves))) if curves else []
            values = [scale * statistics.mean(curve[step] for curve in curves) for step in steps]
            if any(values):
                width = 2 if len(each) > 1 else 0.8
                axis.plot(steps, values, style, color=color, linewidth=width, label=ARMS[name].name)
        axis.set(xlabel="step", ylabel=what)
        axis.grid(color="0.9")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure
