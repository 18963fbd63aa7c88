"""Tables and pictures of what the loss brings, from ``benchmarks/results/camvid_study.json``."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from functools import partial
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.alignment import table
from benchmarks.camvid_errors import NEAR
from benchmarks.camvid_study import ARMS, key_of, score
from benchmarks.scores import COLUMNS, spread

# Of Okabe and Ito's palette, which the colour-blind can tell apart, and two greys.
COLORS = ("#000000", "#D55E00", "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#CC79A7", "#F0E442", "#777777", "#BBBBBB")
STYLES = ("-", "--", ":")
CURVES = {"eval/miou": "mIoU, %", "eval/mba": "mBA, %", "eval/boundary_f_3px": "boundary F at 3 px, %"}
Runs = list[dict[str, Any]]


def results(root: Path) -> dict[str, dict[str, Any]]:
    """What was measured, by kind of machine: ``gpu``, ``cpu``."""
    found = {kind: results_path(root, kind) for kind in ("gpu", "cpu")}
    return {kind: json.loads(path.read_text()) for kind, path in found.items() if path.exists()}


def results_path(root: Path, kind: str) -> Path:
    return root / f"benchmarks/results/camvid_study_{kind}.json"


def by_arm(runs: Runs) -> dict[str, Runs]:
    """The runs of the test stage, in the order of ARMS, then by seed."""
    tests = sorted((run for run in runs if run["stage"] == "test"), key=key_of)
    found = {name: [run for run in tests if run["label"] == name] for name in ARMS}
    return {name: each for name, each in found.items() if each}


def tables(root: Path) -> dict[str, str]:
    """The parts of docs/measured/results.md."""
    parts: dict[str, Callable[[dict[str, Any]], str]] = {
        "conditions": conditions,
        "choices": lambda result: choices(result["runs"]),
        "scores": lambda result: scores(by_arm(result["runs"])),
        "paired": lambda result: paired(by_arm(result["runs"])),
        "runs": lambda result: every_run(by_arm(result["runs"])),
        "classes": lambda result: per_class(by_arm(result["runs"])),
    }
    found = results(root)
    texts = {name: "\n".join(make(each) for each in found.values()) for name, make in parts.items()}
    for part, what in (("scores", "Every run and the mean"), ("curves", "Scores and terms of the loss in training")):
        links = "\n".join(f"![{what}, {kind.upper()}](results_{part}_{kind}.png)\n" for kind in found)
        texts[part] = f"{texts[part]}\n{links}" if part in texts else links
    return texts | {"errors": errors(root)}


def conditions(result: dict[str, Any]) -> str:
    runs = by_arm(result["runs"])
    config = next(iter(runs.values()))[0]["config"]
    devices = sorted({run["device"] for each in runs.values() for run in each})
    versions = result["machine"]["versions"]
    height, width = config["crop"]
    return (
        f"`{config['backbone']}` under the small head, from scratch; {config['steps']} steps of {config['batch_size']} "
        f"crops of {height}x{width}, AdamW, peak learning rate {config['lr']:g}, {config['amp']} autocast; "
        f"{', '.join(devices)}, torch {versions['torch']}.\n"
    )


def choices(runs: Runs) -> str:
    """The scores on the held-out frames, by which beta, radius and gamma were chosen."""
    head = ["on held-out frames of train", *COLUMNS.values(), "score"]
    chosen = sorted((run for run in runs if run["stage"] == "choose"), key=lambda run: (run["label"], run["seed"]))
    rows = {
        run["label"]: [*(spread([run["metrics"].get(name)]) for name in COLUMNS), f"{100 * score(run):.2f}"]
        for run in chosen
    }
    return table(head, rows)


def scores(runs: dict[str, Runs]) -> str:
    head = ["loss", "seeds", *COLUMNS.values()]
    return table(head, {ARMS[name].name: [str(len(each)), *_cells(each)] for name, each in runs.items()})


def _cells(runs: Runs) -> list[str]:
    return [spread([run["metrics"].get(name) for run in runs]) for name in COLUMNS]


PAIRS = (
    ("boundary", "ce"),
    ("log", "boundary"),
    ("headless-boundary", "ce"),
    ("headless-log", "headless-boundary"),
    ("headless-default", "headless-boundary"),
    ("headless-log", "ce"),
    *((name, "boundary") for name in ("euclidean", "geodesic", "dense", "late", "small-tiles", "release")),
)


DEFAULT = (("log", "boundary"), ("headless-default", "headless-boundary"))  # the default gamma, in both hosts


def paired(runs: dict[str, Runs]) -> str:
    """Differences at the same seed: mean and standard deviation over the pairs of runs, in points."""
    named = {f"{ARMS[mine].name}, less {ARMS[theirs].name}": ((mine, theirs),) for mine, theirs in PAIRS}
    named["InverseForm at gamma 0.3, less none, with a head and headless"] = DEFAULT
    rows = {}
    for name, pairs in named.items():
        if not all(differences(runs, *pair) for pair in pairs):
            continue
        points = [point for pair in pairs for point in differences(runs, *pair)]
        rows[name] = [str(len(points)), *(spread([point[c] for point in points], signed=True) for c in COLUMNS)]
    return table(["difference", "pairs", *COLUMNS.values()], rows)


def differences(runs: dict[str, Runs], mine: str, theirs: str) -> list[dict[str, float]]:
    """Of each score, for each seed that both arms have."""
    a, b = ({run["seed"]: run["metrics"] for run in runs.get(name, [])} for name in (mine, theirs))
    return [{name: a[seed][name] - b[seed][name] for name in COLUMNS} for seed in sorted(a.keys() & b.keys())]


def errors(root: Path) -> str:
    """What benchmarks/camvid_errors.py found."""
    result = json.loads((root / "benchmarks/results/camvid_errors.json").read_text())
    head = [
        "tiles", "overlap as predicted", "moved by the estimate", "by the best homography",
        "estimate, tile px", "the best, tile px",
        "cosine with BCE, head", "length, x BCE", "cosine with cross-entropy, headless", "length, x cross-entropy",
    ]  # fmt: skip
    keys = ("as_predicted", "by_estimate", "by_best", "estimated_px", "best_px")
    keys += ("head_cosine", "head_ratio", "headless_cosine", "headless_ratio")
    rows = {}
    for row in result["rows"]:
        height, width = row["size"]
        what = f"{row['tiles']}, {height // 224} x {width // 224} a frame"
        rows[what] = [f"{row[key]:.1f}" if key.endswith(("px", "ratio")) else f"{row[key]:.3f}" for key in keys]
    away = [f"within {NEAR[0]} px", *(f"{low} to {high} px" for low, high in pairwise(NEAR)), f"beyond {NEAR[-1]} px"]
    sides = {"true boundary pixels": result["missing"], "predicted ones": result["false"]}
    shares = {name: [f"{100 * share:.0f} %" for share in each] for name, each in sides.items()}
    return table(["from the other boundary", *away], shares) + "\n" + table(head, rows)


def every_run(runs: dict[str, Runs]) -> str:
    rows = {f"{ARMS[name].name}, seed {run['seed']}": _cells([run]) for name, each in runs.items() for run in each}
    return table(["loss", *COLUMNS.values()], rows)


def per_class(runs: dict[str, Runs]) -> str:
    names = [name for name in next(iter(runs.values()))[0]["metrics"] if name.startswith("iou/")]
    rows = {
        ARMS[arm].name: [f"{100 * statistics.mean(run['metrics'][name] or 0 for run in each):.1f}" for name in names]
        for arm, each in runs.items()
    }
    return table(["IoU, %", *(name.removeprefix("iou/") for name in names)], rows)


SHOWN = {name: COLUMNS[name] for name in ("miou", "mba", "boundary_f_1px", "boundary_f_3px", "boundary_iou")}


def summary(root: Path) -> str:
    """README's table: the main arms."""
    texts = []
    for result in results(root).values():
        runs = {name: each for name, each in by_arm(result["runs"]).items() if ARMS[name].main}
        rows = {
            ARMS[name].name: [str(len(each)), *(spread([run["metrics"].get(c) for run in each]) for c in SHOWN)]
            for name, each in runs.items()
        }
        texts.append(table(["CamVid test, %", "seeds", *SHOWN.values()], rows))
    return "\n".join(texts)


def pictures(root: Path) -> dict[str, tuple[tuple[Path, ...], Callable[[], Figure]]]:
    drawn = {}
    for kind, result in results(root).items():
        runs, sources = by_arm(result["runs"]), (results_path(root, kind),)
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
    """Scores on the test split during training, mean over the seeds; and the terms of the loss."""
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
                axis.plot(steps, values, style, color=color, label=ARMS[name].name)
        axis.set(xlabel="step", ylabel=what)
        axis.grid(color="0.9")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure
