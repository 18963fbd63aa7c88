"""The tables of labels that are displaced and moved back, from ``benchmarks/results/displaced_study.json``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.common.markdown import rows_table, table
from benchmarks.common.paired import block_interval
from benchmarks.common.results import Json
from benchmarks.common.runs import load
from benchmarks.pages.headless import ENDPOINTS, NOTHING, TITLES, differences, paired, scores, spelled
from benchmarks.studies.displaced.arms import ARMS, CHOSEN_ON, DESCENT, EXACT, GIVEN, MAIN, OTHERS, arms_of, seeds_of
from benchmarks.studies.headless.study import CHOOSE, SEEDS, TEST, label

MAIN_ENDPOINT = "boundary_f_3px"
# Every arm of every setting, as an arm of its own
ALL = {
    f"{setting.name} {name}": replace(ARMS[name], name=f"{setting.name}: {ARMS[name].name}")
    for setting in (*MAIN, *OTHERS)
    for name in arms_of(setting)
}
CEILING = f"{EXACT.name} {GIVEN}"
BASELINES = {
    f"{setting.name} {name}": f"{setting.name} {GIVEN}"
    for setting in (*MAIN, *OTHERS)
    for name in arms_of(setting)
    if name != GIVEN
}
Runs = list[Json]


def parts(root: Path) -> dict[str, str]:
    """The parts of docs/measured/displaced.md."""
    runs = load(root / "benchmarks/results/displaced_study.json")
    tried = {run["label"]: run["metrics"]["after_px"] for run in runs if run["stage"] == CHOOSE}
    tested = by_label([run for run in runs if run["stage"] == TEST])
    return {
        "state": state(tried, tested),
        "arms": rows_table(["arm", "labels"], [[arm.name, arm.formula] for arm in ARMS.values()]),
        "registration": registration(tested),
        "given-back": given_back(tested),
        "differences": paired(tested, list(BASELINES.items()), ALL),
        "scores": scores(tested, ALL),
        "choices": choices(tried),
    }


def by_label(runs: Runs) -> dict[str, Runs]:
    """The runs of each arm of each setting that has any, by seed."""
    found = {name: sorted((r for r in runs if r["label"] == name), key=lambda r: r["seed"]) for name in ALL}
    return {name: each for name, each in found.items() if each}


def state(tried: Mapping[str, float], tested: Mapping[str, Runs]) -> str:
    done = sum(map(len, tested.values()))
    planned = sum(
        len(seeds_of(name, setting, SEEDS)) for setting in (*MAIN, *OTHERS) for name in arms_of(setting)
    )  # fmt: skip
    tries = len(CHOSEN_ON) * len(ARMS[DESCENT].weights)
    text = f"**{done} of {planned} trainings and {len(tried)} of {tries} tries of the descent are finished.**"
    seeds = min((len(tested.get(f"{setting.name} {GIVEN}", [])) for setting in MAIN), default=0)
    return f"{text} With fewer than six seeds nothing here is beyond doubt.\n" if seeds < 6 else f"{text}\n"


def registration(tested: Mapping[str, Runs]) -> str:
    head = ["labels", "seeds", "boundary before", "after", "images nearer", "pixel before", "after", "noise"]
    keys = ("before_px", "after_px", "better", "motion_before", "motion_after", "noise_px")
    rows = {}
    for name, runs in tested.items():
        if "after_px" in runs[0]["metrics"]:
            cells = [average(runs, key) for key in keys]
            rows[ALL[name].name] = [str(len(runs)), *(shown(*cell) for cell in zip(keys, cells, strict=True))]
    return table(head, rows) if rows else NOTHING


def average(runs: Runs, key: str) -> float | None:
    values = [run["metrics"].get(key) for run in runs]
    return None if None in values else statistics.mean(values)


def shown(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0%}" if key == "better" else f"{value:.2f}"


def given_back(tested: Mapping[str, Runs]) -> str:
    """Of each arm that moves or uses displaced labels: which share of what they cost it gives back, by endpoint."""
    rows = {}
    for name, baseline in BASELINES.items():
        gains = differences(tested, name, baseline)[MAIN_ENDPOINT]
        shares = [share(tested, name, baseline, endpoint) for endpoint in ENDPOINTS]
        if gains and baseline != CEILING:
            cells = ["-" if each is None else f"{each:.0%}" for each in shares]
            wins = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
            rows[ALL[name].name] = [*cells, wins, over_blocks(tested[name], tested[baseline])]
    return table(["arm", *TITLES, "seeds that gain", "gain in F, 3 px"], rows) if rows else NOTHING


def share(tested: Mapping[str, Runs], name: str, baseline: str, endpoint: str) -> float | None:
    """(aligned - given) / (exact - given), of means over the seeds that all three have; None if it is unknown."""
    arms = [{run["seed"]: run["metrics"][endpoint] for run in tested.get(arm, [])} for arm in (name, baseline, CEILING)]
    seeds = set.intersection(*map(set, arms))
    if not seeds:
        return None
    aligned, given, exact = (statistics.mean(arm[seed] for seed in seeds) for arm in arms)
    return (aligned - given) / (exact - given) if exact != given else None


def over_blocks(mine: Sequence[Json], theirs: Sequence[Json]) -> str:
    """The mean difference in points over blocks of test frames and shared seeds, and its interval over blocks."""
    a, b = ({run["seed"]: blocks(run) for run in runs} for runs in (mine, theirs))
    each = [[x - y for x, y in zip(a[seed], b[seed], strict=True)] for seed in sorted(a.keys() & b.keys())]
    points = [100 * statistics.mean(block) for block in zip(*each, strict=True)]
    low, high = block_interval(points)
    return f"{statistics.mean(points):+.2f} [{low:+.2f}, {high:+.2f}]"


def blocks(run: Json) -> list[float]:
    return [value for key, value in run["metrics"].items() if key.startswith("block/")]


def choices(tried: Mapping[str, float]) -> str:
    rows = {}
    tries = ARMS[DESCENT].weights
    labels = {weights: [f"{setting.name} {label(DESCENT, weights)}" for setting in CHOSEN_ON] for weights in tries}
    done = {weights: [tried[name] for name in names] for weights, names in labels.items() if set(names) <= set(tried)}
    for weights, left in done.items():
        best = len(done) == len(tries) and weights == min(done, key=lambda each: sum(done[each]))
        rows[f"**{spelled(weights)}**" if best else spelled(weights)] = [f"{value:.2f}" for value in left]
    head = ["blur, rate, steps, dead zone", *(f"left of {setting.name}" for setting in CHOSEN_ON)]
    return table(head, rows) if rows else NOTHING
