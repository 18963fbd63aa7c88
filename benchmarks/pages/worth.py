"""Tables of what the loss brings, from ``benchmarks/results/camvid_study_*.json`` and ``camvid_errors.json``."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path

from benchmarks.common import markdown, results
from benchmarks.common.markdown import table
from benchmarks.common.results import Json
from benchmarks.common.runs import key_of, score
from benchmarks.common.scores import COLUMNS, per_cent
from benchmarks.studies.camvid_errors import NEAR
from benchmarks.studies.camvid_study import ARMS

Runs = list[Json]
SHOWN = {name: COLUMNS[name] for name in ("miou", "mba", "boundary_f_1px", "boundary_f_3px", "boundary_iou")}
CHOSEN_BY = {name: COLUMNS[name] for name in ("miou", "mba", "boundary_f_3px")}
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
BOTH_HOSTS = "gain by InverseForm over boundary BCE (gamma 0.3, with a head and headless)"


def by_arm(runs: Runs) -> dict[str, Runs]:
    """The runs of the test stage, in the order of ARMS, then by seed."""
    tests = sorted((run for run in runs if run["stage"] == "test"), key=key_of)
    found = {name: [run for run in tests if run["label"] == name] for name in ARMS}
    return {name: each for name, each in found.items() if each}


def parts(root: Path) -> dict[str, str]:
    """The parts of docs/measured/results.md."""
    made: dict[str, Callable[[Json], str]] = {
        "conditions": conditions,
        "choices": lambda result: choices(result["runs"]),
        "scores": lambda result: scores(by_arm(result["runs"])),
        "paired": lambda result: paired(by_arm(result["runs"])),
    }
    found = results.by_kind(root, "camvid_study")
    texts = {name: "\n".join(make(each) for each in found.values()) for name, make in made.items()}
    texts["curves"] = ""
    for part, what in (("scores", "Every run and the mean"), ("curves", "Scores and terms of the loss in training")):
        links = "\n".join(f"![{what}, {kind.upper()}](results_{part}_{kind}.png)\n" for kind in found)
        texts[part] += "\n" * bool(texts[part]) + links
    texts["runs"] = "[The appendix](results_tables.md#every-run) has the scores of every run.\n"
    texts["classes"] = "[The appendix](results_tables.md#by-class) has the IoU of every class.\n"
    return texts | {"errors": errors(results.read(root / "benchmarks/results/camvid_errors.json"))}


def appendix(root: Path) -> str:
    """docs/measured/results_tables.md: every run, every class, every score of the choices."""
    made: dict[str, Callable[[Json], str]] = {
        "Every run": lambda result: every_run(by_arm(result["runs"])),
        "By class": lambda result: per_class(by_arm(result["runs"])),
        "Choices": lambda result: choices(result["runs"], COLUMNS),
    }
    found = results.by_kind(root, "camvid_study").values()
    texts = [f"## {title}\n\n" + "\n".join(make(each) for each in found) for title, make in made.items()]
    return markdown.appendix(
        "CamVid: every run, class and choice", "results.md", "CamVid: what the loss brings", *texts
    )


def conditions(result: Json) -> str:
    runs = by_arm(result["runs"])
    config = next(iter(runs.values()))[0]["config"]
    devices = sorted({run["device"] for each in runs.values() for run in each})
    height, width = config["crop"]
    return (
        f"Every run trains `{config['backbone']}` under the small head from scratch, for {config['steps']} steps of "
        f"{config['batch_size']} crops of {height}x{width}, by AdamW with a peak learning rate of {config['lr']:g} and "
        f"{config['amp']} autocast. The runs took place on {', '.join(devices)} with torch "
        f"{result['machine']['versions']['torch']}.\n"
    )


def choices(runs: Runs, columns: Mapping[str, str] = CHOSEN_BY) -> str:
    """The scores on the held-out frames, by which beta, radius and gamma were chosen."""
    chosen = sorted((run for run in runs if run["stage"] == "choose"), key=lambda run: (run["label"], run["seed"]))
    rows = {
        run["label"]: [*(per_cent([run["metrics"].get(name)]) for name in columns), f"{100 * score(run):.2f}"]
        for run in chosen
    }
    return table(["on held-out frames of train", *columns.values(), "score"], rows)


def scores(runs: dict[str, Runs]) -> str:
    head = ["loss", "seeds", *COLUMNS.values()]
    return table(head, {ARMS[name].name: [str(len(each)), *_cells(each)] for name, each in runs.items()})


def _cells(runs: Runs) -> list[str]:
    return [per_cent([run["metrics"].get(name) for run in runs]) for name in COLUMNS]


def paired(runs: dict[str, Runs]) -> str:
    """Differences at the same seed: mean and standard deviation over the pairs of runs, in points."""
    named = {f"*{ARMS[mine].name}* minus *{ARMS[theirs].name}*": ((mine, theirs),) for mine, theirs in PAIRS}
    compared: dict[str, tuple[tuple[str, str], ...]] = {**named, BOTH_HOSTS: DEFAULT}
    rows = {name: difference(runs, pairs, COLUMNS) for name, pairs in compared.items()}
    return table(["difference", "pairs", *COLUMNS.values()], {name: cells for name, cells in rows.items() if cells})


def difference(runs: dict[str, Runs], pairs: Iterable[tuple[str, str]], columns: Iterable[str]) -> list[str]:
    """The cells of a row; none if there are no runs of one of the pairs."""
    found = [differences(runs, *pair) for pair in pairs]
    if not all(found):
        return []
    points = [point for each in found for point in each]
    return [str(len(points)), *(per_cent([point[column] for point in points], signed=True) for column in columns)]


def differences(runs: dict[str, Runs], mine: str, theirs: str) -> list[dict[str, float]]:
    """Of each score, for each seed that both arms have."""
    a, b = ({run["seed"]: run["metrics"] for run in runs.get(name, [])} for name in (mine, theirs))
    return [{name: a[seed][name] - b[seed][name] for name in COLUMNS} for seed in sorted(a.keys() & b.keys())]


def errors(result: Json) -> str:
    """What the study of a model's errors found."""
    head = [
        "tiles", "overlap as predicted", "moved by the estimate", "by the best homography",
        "estimate, tile px", "the best, tile px",
        "cosine with BCE, head", "length, x BCE", "cosine with cross-entropy, headless", "length, x cross-entropy",
    ]  # fmt: skip
    keys = (
        *("as_predicted", "by_estimate", "by_best", "estimated_px", "best_px"),
        *("head_cosine", "head_ratio", "headless_cosine", "headless_ratio"),
    )
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
