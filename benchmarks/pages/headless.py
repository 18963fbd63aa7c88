"""The tables of losses without a boundary head and their rivals, from ``benchmarks/results/headless_*.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.common import results
from benchmarks.common.markdown import rows_table, table
from benchmarks.common.paired import holm, sign_flip_p, t_interval
from benchmarks.common.results import Json
from benchmarks.common.runs import load, score
from benchmarks.common.scores import COLUMNS, per_cent
from benchmarks.studies.headless.arms import ARMS, Arm, Weights
from benchmarks.studies.headless.cost import STOCK
from benchmarks.studies.headless.study import CHOOSE, SEEDS, TEST
from benchmarks.studies.headless.variants import VARIANTS
from benchmarks.studies.headless.whole import ARMS as WHOLE

ENDPOINTS = ("boundary_f_1px", "boundary_f_3px", "boundary_iou", "miou", "mba")
TITLES = [COLUMNS[name] for name in ENDPOINTS]
NOTHING = "No training of this table is finished.\n"
README_ARMS = ("ce", "dice", "lovasz", "active", "boundary-f1", "dice-edge-f1")
DEFAULT = "dice-edge-f1"  # the arm that BoundaryAwareLoss() is
STUDIES = ("study", "whole", "variants")
Runs = list[Json]
Arms = Mapping[str, Arm]


def parts(root: Path) -> dict[str, str]:
    """The parts of docs/measured/headless.md."""
    heads, whole, variants = (load(root / f"benchmarks/results/headless_{name}.json") for name in STUDIES)
    tried, tested = (by_arm(heads, stage, ARMS) for stage in (CHOOSE, TEST))
    tried_whole, tested_whole = (by_arm(whole, stage, WHOLE) for stage in (CHOOSE, TEST))
    ours, ours_whole = proposed(tried, ARMS), proposed(tried_whole, WHOLE)
    return {
        "state": state(tried, tested, ours),
        "arms": arms(),
        "variants": choices(by_arm(variants, CHOOSE, VARIANTS), VARIANTS),
        "choices": choices(tried, ARMS),
        "scores": scores(tested, ARMS),
        "against-ce": against_cross_entropy(tested, ARMS),
        "against-rivals": against_rivals(tested, ARMS, ours or DEFAULT),
        "cost": cost(root),
        "whole-choices": choices(tried_whole, WHOLE),
        "whole-scores": scores(tested_whole, WHOLE),
        "whole-against-ce": against_cross_entropy(tested_whole, WHOLE),
        "whole-against-rivals": against_rivals(tested_whole, WHOLE, ours_whole or DEFAULT),
    }


def summary(root: Path) -> str:
    """The table of the README."""
    tested = by_arm(load(root / "benchmarks/results/headless_study.json"), TEST, ARMS)
    return scores({name: tested[name] for name in README_ARMS if name in tested}, ARMS)


def cost(root: Path) -> str:
    """CPU milliseconds of each loss, the cheapest ones first, and their ratio to plain cross-entropy."""
    path = root / "benchmarks/results/headless_cost.json"
    if not path.exists():
        return NOTHING
    ms = results.read(path)["ms"]
    first, *_ = ms.values()
    rows = {
        name: [f"{each[name]:.0f} ({each[name] / each[STOCK]:.2f})" for each in ms.values()]
        for name in sorted(first, key=lambda name: first[name])
    }
    return table(["loss, with its gradient", *(f"{size}, ms" for size in ms)], rows)


def by_arm(runs: Runs, stage: str, arms: Arms) -> dict[str, Runs]:
    """The stage's runs, in the order of ``arms``, then as the file has them: by label and seed."""
    found = {name: [run for run in runs if (run["stage"], run["arm"]) == (stage, name)] for name in arms}
    return {name: each for name, each in found.items() if each}


def proposed(tried: Mapping[str, Runs], arms: Arms) -> str | None:
    """Our arm with the best score on the held-out frames; None before all of ours have been tried with all weights."""
    ours = [name for name, arm in arms.items() if arm.ours]
    if any(len(tried.get(name, [])) < len(arms[name].weights) for name in ours):
        return None
    return max(ours, key=lambda name: max(map(score, tried[name])))


def state(tried: Mapping[str, Runs], tested: Mapping[str, Runs], ours: str | None) -> str:
    done = [sum(map(len, each.values())) for each in (tried, tested)]
    choices = sum(len(arm.weights) for arm in ARMS.values())
    tests = sum(len(SEEDS) if arm.main else 1 for arm in ARMS.values())
    text = (
        f"**{done[0]} of {choices} trainings to choose weights and {done[1]} of {tests} on test frames are finished.**"
    )
    if not done[1]:
        text += " One training each on held-out frames ranks no losses; this page has no result yet."
    if ours is None:
        return (
            f"{text} Which of our losses is compared with the rivals is not decided yet. Until then it is the "
            f"package's default, *{ARMS[DEFAULT].name}*.\n"
        )
    return f"{text} The rule chose *{ARMS[ours].name}* as the one of ours to compare with the rivals.\n"


def arms() -> str:
    rows = [
        [
            arm.name,
            arm.formula,
            "; ".join(map(spelled, arm.weights)),
            "ours" if arm.ours else "rival",
            str(len(SEEDS) if arm.main else 1),
        ]
        for arm in ARMS.values()
    ]
    return rows_table(["loss", "formula", "weights tried", "whose", "seeds on test"], rows, names=4)


def spelled(weights: Weights | Sequence[float]) -> str:
    return ", ".join(f"{weight:g}" for weight in weights) or "-"


def choices(tried: Mapping[str, Runs], arms: Arms) -> str:
    """The scores on the held-out frames; the best of several tries of an arm, once all were made, is marked."""
    rows = {}
    for name, runs in tried.items():
        weights = arms[name].weights
        best = max(runs, key=score) if len(runs) == len(weights) > 1 else None
        for run in runs:
            title = f"{arms[name].name}: {spelled(run['weights'])}" if len(weights) > 1 else arms[name].name
            mark = f"**{100 * score(run):.2f}**" if run is best else f"{100 * score(run):.2f}"
            rows[title] = [*cells([run]), mark, step_seconds(run)]
    return table(["loss: weights", *TITLES, "score", "CPU s a step"], rows) if rows else NOTHING


def step_seconds(run: Json) -> str:
    return "-" if run["cpu_seconds"] is None else f"{run['cpu_seconds'] / run['config']['steps']:.2f}"


def scores(tested: Mapping[str, Runs], arms: Arms) -> str:
    rows = {
        arms[name].name: [spelled(runs[0]["weights"]), str(len(runs)), *cells(runs)] for name, runs in tested.items()
    }
    return table(["loss", "weights", "seeds", *TITLES], rows) if rows else NOTHING


def cells(runs: Runs) -> list[str]:
    return [per_cent([run["metrics"].get(name) for run in runs]) for name in ENDPOINTS]


def against_cross_entropy(tested: Mapping[str, Runs], arms: Arms) -> str:
    return paired(tested, [(name, "ce") for name in arms if name != "ce"], arms)


def against_rivals(tested: Mapping[str, Runs], arms: Arms, ours: str) -> str:
    return paired(tested, [(ours, name) for name in arms if not arms[name].ours], arms)


def paired(tested: Mapping[str, Runs], pairs: Sequence[tuple[str, str]], arms: Arms) -> str:
    """Of each pair of arms that share seeds: mean difference in points, its 95 % interval, and p over all the pairs."""
    found = {pair: differences(tested, *pair) for pair in pairs}
    found = {pair: each for pair, each in found.items() if each[ENDPOINTS[0]]}
    corrected = {name: holm([sign_flip_p(each[name]) for each in found.values()]) for name in ENDPOINTS}
    rows = {}
    for i, ((mine, theirs), each) in enumerate(found.items()):
        texts = [difference_cell(each[name], corrected[name][i]) for name in ENDPOINTS]
        rows[f"{arms[mine].name} minus {arms[theirs].name}"] = [str(len(each[ENDPOINTS[0]])), *texts]
    return table(["difference", "pairs", *TITLES], rows) if rows else NOTHING


def differences(tested: Mapping[str, Runs], mine: str, theirs: str) -> dict[str, list[float]]:
    """Points by endpoint, for each seed that both arms have."""
    a, b = ({run["seed"]: run["metrics"] for run in tested.get(name, [])} for name in (mine, theirs))
    return {name: [100 * (a[seed][name] - b[seed][name]) for seed in sorted(a.keys() & b.keys())] for name in ENDPOINTS}


def difference_cell(points: Sequence[float], p: float) -> str:
    mean = f"{sum(points) / len(points):+.2f}"
    if len(points) == 1:
        return mean
    low, high = t_interval(points)
    return f"{mean} [{low:+.2f}, {high:+.2f}], p {p:.2g}"
