"""The tables and the picture of who comes home, from ``benchmarks/results/alignment.json``."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.common import results
from benchmarks.common.markdown import table
from benchmarks.common.results import Json
from benchmarks.pages.cost import threads
from benchmarks.pages.drawing import AMBER, BLACK, BLUE, GREEN, LIGHT_BLUE, ORANGE, PINK, Drawings
from benchmarks.studies.alignment.losses import OTHERS, title
from benchmarks.studies.alignment.study import GOAL_AHEAD, GOAL_HOME, GOAL_SHARE, home_share

SOURCE = "benchmarks/results/alignment.json"
MET = {True: "met", False: "not met"}
COLORS = dict(zip(OTHERS, (ORANGE, AMBER, GREEN, PINK, LIGHT_BLUE), strict=True))
NET_COLORS = (BLUE, BLACK)  # InverseForm's is its network's
STYLES = {"log": "-", "euclidean": "--", "geodesic": ":"}


def parts(root: Path) -> dict[str, str]:
    """The part of docs/measured/alignment.md."""
    return {"alignment": tables(results.read(root / SOURCE))}


def tables(result: Json) -> str:
    warp, pixel = result["warp"], result["pixel"]
    minutes = sum(row["cpu_seconds"] for row in (*warp.values(), *pixel.values())) / 60
    warp_rows = {name: [f"{row['rate']:g}", *map(_home, row["outcomes"].values())] for name, row in warp.items()}
    pixel_rows = {"(the start)": ["", *map(_near, result["pixel_starts"].values())]}
    pixel_rows |= {name: [f"{row['rate']:g}", *map(_near, row["outcomes"].values())] for name, row in pixel.items()}
    machine = f"{threads(result['machine'])} of {result['machine']['device']}"
    ours, home, ahead = (result["goal"][each] for each in ("loss", "home", "ahead"))
    return f"""The boundaries come from {result["data"]}. Each displacement has {result["starts"]} starts,
and each descent takes {result["steps"]} steps. All of it took {minutes:.0f} CPU minutes on {machine}.

- {ours} comes home from at least {100 * GOAL_SHARE:.0f} % of the starts up to {GOAL_HOME} px: **{MET[home]}**.
- It comes home more often than every other loss beyond {GOAL_AHEAD} px: **{MET[ahead]}**.

**Warp**: the descent moves the boundary as a whole. A cell says how many percent of the starts come home,
with a 95 % interval. The rate is the learning rate at the first step, in pixels per step.

{table(["loss", "rate", *_displacements(warp)], warp_rows)}
**Pixels**: the descent changes every pixel by itself. A cell holds the boundary F-score at 1 px in percent, and the
mean distance from the true boundary. The rate is in logits per step.

{table(["loss", "rate", *_displacements(pixel)], pixel_rows)}"""


def _displacements(rows: Json) -> list[str]:
    return [f"{px} px" for px in next(iter(rows.values()))["outcomes"]]


def _home(outcome: Json) -> str:
    low, high = (f"{100 * end:.0f}" for end in outcome["interval"])
    return f"{100 * outcome['home'] / outcome['of']:.0f} ({low} to {high})"


def _near(outcome: Json) -> str:
    return f"{100 * outcome['f_1px']:.1f}; {outcome['distance_px']:.2f} px"


def pictures(root: Path) -> Drawings:
    return {"alignment.png": ((root / SOURCE,), lambda: drawn(results.read(root / SOURCE)))}


def drawn(result: Json) -> Figure:
    """Share that comes home against the displacement, each line with its name at its end."""
    figure = Figure(figsize=(10, 5.5), layout="tight")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    looks = {name: (color, "-") for name, color in COLORS.items()}
    for net, color in zip(result["nets"], cycle(NET_COLORS), strict=False):
        looks |= {title(net, distance): (color, style) for distance, style in STYLES.items()}
    pixels = [int(px) for px in next(iter(result["warp"].values()))["outcomes"]]
    shares = {name: [home_share(row, str(px)) for px in pixels] for name, row in result["warp"].items()}
    label = -1.0
    for name in sorted(shares, key=lambda each: (shares[each][-1], sum(shares[each]))):
        (color, style), end = looks[name], shares[name][-1]
        axis.plot(pixels, shares[name], style, color=color, linewidth=2)
        label = max(end, label + 0.05)  # above the one below
        line = {"arrowstyle": "-", "color": color, "linewidth": 0.8, "relpos": (0, 0.5), "shrinkA": 0}
        axis.annotate(name, (pixels[-1], end), (pixels[-1] + 1, label), color=color, va="center", arrowprops=line)
    axis.set(xlabel="mean displacement of the corners at the start (px)", ylabel="come home (within 1 px)")
    axis.set_xticks(pixels)
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.set_ylim(-0.02, 1.02)
    axis.grid(color="0.9", linewidth=0.8)
    return figure
