"""Does a loss lead a displaced boundary home? ``python -m benchmarks.alignment --root CAMVID --out FILE.json``.

Every loss descends from the same starts, tiles of true boundaries displaced by random homographies, by the same Adam
with a rate that falls as a cosine: on the 8 Lie coefficients of a warp of the prediction, and on free logits. Each gets
the best of three rates on other label maps. Without ``--root`` the boundaries are of procedural scenes and shapes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")  # no display
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from scipy.ndimage import distance_transform_edt
from scipy.stats import binomtest
from torch import Generator, Tensor

from benchmarks import gpu
from benchmarks.so3_speed import cpu
from inverseform_fast import InverseFormLoss, homography
from inverseform_fast.files import write_atomically
from inverseform_fast.functional import boundary_map, homography_warp
from inverseform_fast.inverse_net.label_maps import collect_label_maps
from inverseform_fast.nets import WEIGHTS

TILE, MARGIN = 224, 48  # a displaced tile shows what lies around the true one, as far as the margin reaches
HALF, SQUARE = TILE / 2, TILE + 2 * MARGIN
HOME = 1.0  # pixel; nearer than that is home
SURE = 4.0  # logit of a boundary pixel
BETA, GAMMA = 10, 0.3  # of BoundaryAwareLoss
GOAL_SHARE, GOAL_HOME, GOAL_AHEAD = 0.95, 12, 6
MARKS = "<!-- alignment: begin -->", "<!-- alignment: end -->"
# Of Okabe and Ito's palette, which the colour-blind can tell apart; InverseForm's is its network's.
COLORS = {
    "balanced BCE": "#D55E00",
    "MSE": "#E69F00",
    "soft Dice": "#009E73",
    "signed distance": "#CC79A7",
    "Hausdorff-DT": "#56B4E9",
}
NET_COLORS = ("#0072B2", "#000000")
STYLES = {"log": "-", "euclidean": "--", "geodesic": ":"}


class Truth(NamedTuple):
    """A true boundary ``(N, 1, TILE, TILE)`` of 0 and 1, and its :func:`distances`."""

    boundary: Tensor
    outside: Tensor
    inside: Tensor


class Starts(NamedTuple):
    squares: Tensor  # (N, 1, SQUARE, SQUARE): the boundary and what lies around
    truth: Truth
    a: Tensor  # (N, 8)


Loss = Callable[[Tensor, Truth], Tensor]  # of probabilities; the sum over tiles, so that no start feels another


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--root", type=Path, help="folder of CamVid")
    parser.add_argument("--net", action="append", metavar="[NAME=]PATH", help="weights; the shipped ones by default")
    parser.add_argument("--starts", type=int, default=12, help="for each displacement, and to choose the rates")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", type=Path, help="Markdown file whose tables to fill: docs/measured/alignment.md")
    parser.add_argument("--plot", type=Path, help="picture to draw: docs/measured/alignment.png")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    texts = options.net or [str(WEIGHTS / "compact.safetensors")]
    nets = dict(named(text) for text in texts)
    if len(nets) < len(texts):
        parser.error("the networks need names of their own: --net NAME=PATH")
    maps, other_maps = (
        collect_label_maps("camvid" if options.root else "scenes", split, options.root, (360, 480), 100, 100, seed)
        for split, seed in (("test", options.seed), ("train", options.seed + 1))
    )
    result = {
        "machine": gpu.machine() | {"device": cpu(), "threads": options.threads},
        "data": "CamVid" if options.root else "procedural scenes and shapes",
        "nets": {name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for name, path in nets.items()},
        "starts": options.starts,
        "steps": options.steps,
        "seed": options.seed,
        "warp": {},
        "pixel": {},
    }
    keep_rows(options.out, result)
    measure(result, nets, maps, other_maps, lambda: write(result, options.out))
    if options.page:
        text = filled(options.page.read_text(), tables(result))
        write_atomically(options.page, lambda file: file.write(text.encode()))
    if options.plot:
        write_atomically(options.plot, lambda file: drawn(result).savefig(file, dpi=110, format="png"))
    print(tables(result))


def named(text: str) -> tuple[str, Path]:
    name, _, path = text.rpartition("=")
    return name or Path(path).stem, Path(path)


def write(result: dict[str, Any], path: Path) -> None:
    write_atomically(path, lambda file: file.write(json.dumps(result, indent=1).encode()))


def keep_rows(path: Path, result: dict[str, Any]) -> None:
    """Take over what an earlier run, stopped or without some of the networks, measured under the same conditions."""
    if not path.exists():
        return
    earlier = json.loads(path.read_text())
    if any(earlier[name] != result[name] for name in ("data", "starts", "steps", "seed")):
        return
    same = [name for name, net in result["nets"].items() if earlier["nets"].get(name) == net]
    for version in ("warp", "pixel"):
        for name, row in earlier[version].items():
            if not name.startswith("InverseForm") or name.startswith(tuple(title(net, "")[:-1] for net in same)):
                result[version][name] = row


def measure(
    result: dict[str, Any], nets: dict[str, Path], maps: Tensor, other_maps: Tensor, save: Callable[[], None]
) -> None:
    """Fill ``result`` with the rows that it lacks, saving each."""
    starts, steps = result["starts"], result["steps"]
    generator = Generator().manual_seed(result["seed"])
    of_nets, others = inverseform_losses(nets), other_losses()
    alone = {title(name, "log"): of_nets[title(name, "log")] for name in nets}
    mixed = {f"{name} + balanced BCE": mix(loss) for name, loss in alone.items()}
    batches = {px: make_starts(maps, torch.full((starts,), px), generator) for px in WARP.displacements}

    def rows(version: Version, losses: dict[str, Loss], found: dict[str, Any]) -> dict[str, Any]:
        every = torch.tensor(version.displacements).repeat(starts)[:starts]
        held_out = make_starts(other_maps, every, generator)
        for name, loss in losses.items():
            if name not in found:
                found[name] = run(version, name, loss, batches, held_out, steps)
                save()
        return {name: found[name] for name in losses}

    result["warp"] = rows(WARP, of_nets | others, result["warp"])
    result["pixel"] = rows(PIXEL, alone | mixed | others, result["pixel"])
    starting = {str(px): agreement(displaced(batches[px]), batches[px].truth) for px in PIXEL.displacements}
    result |= {"pixel_starts": starting, "goal": goal(result["warp"], title(next(iter(nets)), "log"))}
    save()


def title(net: str, distance: str) -> str:
    return f"InverseForm ({net}, {distance})"


def make_starts(label_maps: Tensor, displacements: Tensor, generator: Generator) -> Starts:
    """Tiles from random places of label maps, displaced in random directions by ``displacements (N,)`` in pixels."""
    squares: list[Tensor] = []
    while len(squares) < len(displacements):
        labels = label_maps[torch.randint(len(label_maps), (1,), generator=generator)]
        y, x = (int(torch.randint(edge - SQUARE + 1, (), generator=generator)) for edge in labels.shape[1:])
        square = (boundary_map(labels[:, y : y + SQUARE, x : x + SQUARE]) == 1).float()
        # Where a quarter of the tile is empty, many a motion cannot be seen.
        if F.adaptive_max_pool2d(square[..., MARGIN:-MARGIN, MARGIN:-MARGIN], 2).all():
            squares.append(square)
    stacked = torch.stack(squares)
    a = torch.randn(len(displacements), 8, generator=generator)
    a = a / a.norm(dim=1, keepdim=True) * (displacements / HALF)[:, None]
    for _ in range(5):  # the corners move in proportion to a, nearly
        a = a * (displacements / corners(a))[:, None]
    true = stacked[..., MARGIN:-MARGIN, MARGIN:-MARGIN].contiguous()
    return Starts(stacked, Truth(true, *distances(true)), a)


def corners(a: Tensor) -> Tensor:
    """Mean displacement (N,) of the tile's corners in pixels."""
    return homography.corner_displacement(homography.exp(a)) * HALF


def warped(squares: Tensor, a: Tensor) -> Tensor:
    view = torch.tensor([TILE / SQUARE, TILE / SQUARE, 1.0]).diag()
    return homography_warp(squares, view @ homography.exp(a), (TILE, TILE))


def distances(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Of pixels outside a mask ``(N, 1, H, W)`` from it, and of those inside from the ground; 0 where there is none."""
    fields = [
        [distance_transform_edt(side) * bool(mask.any()) for side in (~mask, mask)] for mask in masks.bool().numpy()
    ]
    outside, inside = torch.from_numpy(np.array(fields, dtype=np.float32)).unbind(1)
    return outside, inside


def inverseform_losses(nets: dict[str, Path]) -> dict[str, Loss]:
    def loss(path: Path, distance: str) -> Loss:
        criterion = InverseFormLoss(path, distance, activation=None, reduction="sum")
        return lambda predicted, truth: criterion(predicted, truth.boundary)

    return {
        title(name, distance): loss(path, distance) for name, path in nets.items() for distance in homography.DISTANCES
    }


def other_losses() -> dict[str, Loss]:
    losses = (balanced_bce, mse, soft_dice, signed_distance, hausdorff)
    return dict(zip(COLORS, losses, strict=True))


def mix(inverseform: Loss) -> Loss:
    return lambda predicted, truth: BETA * balanced_bce(predicted, truth) + GAMMA * inverseform(predicted, truth)


def balanced_bce(predicted: Tensor, truth: Truth) -> Tensor:
    share = truth.boundary.mean((1, 2, 3), keepdim=True)
    weight = torch.where(truth.boundary > 0, 1 - share, share)
    # Logits within SURE: of a certain 0 or 1 the loss is infinite.
    low = torch.tensor(-SURE).sigmoid()
    unsure = low + (1 - 2 * low) * predicted
    return F.binary_cross_entropy(unsure, truth.boundary, weight, reduction="none").mean((1, 2, 3)).sum()


def mse(predicted: Tensor, truth: Truth) -> Tensor:
    return (predicted - truth.boundary).square().mean((1, 2, 3)).sum()


def soft_dice(predicted: Tensor, truth: Truth) -> Tensor:
    both = (predicted * truth.boundary).sum((1, 2, 3))
    return (1 - 2 * both / (predicted + truth.boundary).sum((1, 2, 3))).sum()


def signed_distance(predicted: Tensor, truth: Truth) -> Tensor:
    """Kervadec et al., Boundary loss for highly unbalanced segmentation, 2019."""
    return (predicted * (truth.outside - (truth.inside - 1).clamp(min=0))).mean((1, 2, 3)).sum()


def hausdorff(predicted: Tensor, truth: Truth) -> Tensor:
    """Karimi and Salcudean, Reducing the Hausdorff distance in medical image segmentation, 2019; alpha = 2."""
    outside, inside = distances(predicted.detach() > 0.5)
    field = (outside + inside).square() + (truth.outside + truth.inside).square()
    return ((predicted - truth.boundary).square() * field).mean((1, 2, 3)).sum()


def descend(start: Tensor, value: Callable[[Tensor], Tensor], rate: float, steps: int) -> Tensor:
    x = start.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        value(x).backward()
        adam.step()
        schedule.step()
    return x.detach()


def warp_outcome(loss: Loss, starts: Starts, rate: float, steps: int) -> dict[str, Any]:
    a = descend(starts.a, lambda a: loss(warped(starts.squares, a), starts.truth), rate / HALF, steps)
    left = corners(a)
    home, of = int((left < HOME).sum()), len(left)
    interval = binomtest(home, of).proportion_ci(0.95, "wilson")
    return {"home": home, "of": of, "interval": [interval.low, interval.high], "left_px": left.median().item()}


def pixel_outcome(loss: Loss, starts: Starts, rate: float, steps: int) -> dict[str, Any]:
    logits = torch.where(displaced(starts), SURE, -SURE)
    return agreement(descend(logits, lambda x: loss(x.sigmoid(), starts.truth), rate, steps) > 0, starts.truth)


def displaced(starts: Starts) -> Tensor:
    return warped(starts.squares, starts.a) > 0.5


def agreement(predicted: Tensor, truth: Truth) -> dict[str, float]:
    """Boundary F-score at 1 px, mean over tiles, and mean distance of predicted boundary pixels from the true ones."""

    def share(near: Tensor, mask: Tensor) -> Tensor:
        return (near & mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1)

    precision = share(truth.outside <= 1, predicted)
    recall = share(distances(predicted)[0] <= 1, truth.boundary > 0)
    f = 2 * precision * recall / (precision + recall).clamp(min=1e-9)
    return {"f_1px": f.mean().item(), "distance_px": truth.outside[predicted].mean().item()}


@dataclass(frozen=True)
class Version:
    outcome: Callable[[Loss, Starts, float, int], dict[str, Any]]
    merit: Callable[[dict[str, Any]], Any]  # of an outcome: what chooses the rate
    displacements: tuple[int, ...]  # of the corners on average, in pixels
    rates: tuple[float, ...]


WARP = Version(warp_outcome, lambda o: (o["home"], -o["left_px"]), (2, 4, 6, 8, 12, 16, 20, 24), (0.5, 1.0, 2.0))
PIXEL = Version(pixel_outcome, lambda o: o["f_1px"], (4, 12), (0.1, 0.3, 1.0))


def run(
    version: Version, name: str, loss: Loss, batches: dict[int, Starts], held_out: Starts, steps: int
) -> dict[str, Any]:
    begin = time.process_time()
    trials = {rate: version.outcome(loss, held_out, rate, steps) for rate in version.rates}
    rate = max(trials, key=lambda each: version.merit(trials[each]))
    outcomes = {str(px): version.outcome(loss, batches[px], rate, steps) for px in version.displacements}
    seconds = time.process_time() - begin
    print(f"{name}: rate {rate}, {seconds:.0f} CPU seconds", flush=True)
    return {"rate": rate, "trials": trials, "outcomes": outcomes, "cpu_seconds": seconds}


def home_share(row: dict[str, Any], px: str) -> float:
    return row["outcomes"][px]["home"] / row["outcomes"][px]["of"]


def goal(warp: dict[str, Any], ours: str) -> dict[str, Any]:
    """Whether ``ours`` comes home often enough from near, and more often than any loss but InverseForm from far."""
    pixels = warp[ours]["outcomes"]
    home = all(home_share(warp[ours], px) >= GOAL_SHARE for px in pixels if int(px) <= GOAL_HOME)
    ahead = all(
        home_share(warp[ours], px) > home_share(warp[other], px)
        for px in pixels
        for other in COLORS
        if int(px) > GOAL_AHEAD
    )
    return {"loss": ours, "home": home, "ahead": ahead}


def tables(result: dict[str, Any]) -> str:
    def home(o: dict[str, Any]) -> str:
        low, high = (f"{100 * end:.0f}" for end in o["interval"])
        return f"{100 * o['home'] / o['of']:.0f} ({low} to {high})"

    def near(o: dict[str, Any]) -> str:
        return f"{100 * o['f_1px']:.1f}; {o['distance_px']:.2f} px"

    warp, pixel, met = result["warp"], result["pixel"], {True: "met", False: "not met"}
    minutes = sum(row["cpu_seconds"] for row in (*warp.values(), *pixel.values())) / 60
    ours, *goals = result["goal"]["loss"], *(met[result["goal"][each]] for each in ("home", "ahead"))
    warp_rows = {n: [f"{r['rate']:g}", *map(home, r["outcomes"].values())] for n, r in warp.items()}
    pixel_rows = {"(the start)": ["", *map(near, result["pixel_starts"].values())]}
    pixel_rows |= {n: [f"{r['rate']:g}", *map(near, r["outcomes"].values())] for n, r in pixel.items()}
    return f"""{result["data"]}; {result["starts"]} starts for each displacement, {result["steps"]} steps;
{result["machine"]["device"]}, {result["machine"]["threads"]} thread(s), {minutes:.0f} CPU minutes.

- {ours} comes home at {100 * GOAL_SHARE:.0f} % or more up to {GOAL_HOME} px: **{goals[0]}**.
- It is ahead of every other loss beyond {GOAL_AHEAD} px: **{goals[1]}**.

Warp: per cent that come home, with 95 % intervals; the rate in pixels a step.

{table(["loss", "rate", *(f"{px} px" for px in WARP.displacements)], warp_rows)}
Pixels: boundary F-score at 1 px in per cent; mean distance from the true boundary; the rate in logits a step.

{table(["loss", "rate", *(f"{px} px" for px in PIXEL.displacements)], pixel_rows)}"""


def table(head: list[str], rows: dict[str, list[str]]) -> str:
    """In Markdown; the first column is the rows' names."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *([name, *cells] for name, cells in rows.items())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def filled(page: str, text: str, marks: tuple[str, str] = MARKS) -> str:
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not end:
        raise ValueError(f"the page must hold {' and '.join(marks)}")
    return f"{before}{begin}\n{text}{end}{after}"


def drawn(result: dict[str, Any]) -> Figure:
    """Share that comes home against the displacement, each line with its name at its end."""
    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure, axis = plt.subplots(figsize=(10, 5.5))
    looks = {name: (color, "-") for name, color in COLORS.items()}
    for net, color in zip(result["nets"], cycle(NET_COLORS), strict=False):
        looks |= {title(net, distance): (color, style) for distance, style in STYLES.items()}
    pixels = WARP.displacements
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
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main()
