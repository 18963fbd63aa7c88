"""Calibration displaces boundaries by known amounts, and records the loss's value and where its gradient points."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import matplotlib
import torch
from rich.console import Console
from torch import Generator, Tensor

from .. import homography
from ..fields import MOST_SEED
from ..files import write_atomically
from ..functional import boundary_map, extract_tiles, homography_warp
from ..losses import nearest_multiples
from ..nets import InverseTransformNet
from ..segmentation.progress import track
from .evaluation import degrade

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DISPLACEMENTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 20, 24)  # in pixels of the tile; 0 must come first
QUANTILES = (5, 25, 50, 75, 95)  # in per cent


class Side(TypedDict):
    """How the loss reads crisp or degraded boundaries: by quantile (in per cent), a number for each displacement."""

    value: dict[str, list[float]]  # the loss |a|, in pixels
    match: float  # the median value at displacement 0
    direction_error: dict[str, list[float | None]]  # degrees between descent and the way back to the match; null at 0


class Calibration(TypedDict):
    """The result of :func:`calibrate`."""

    tile: int
    views: int  # number of views with a boundary
    displacement: list[int]  # true |a|, in pixels
    crisp: Side  # of the true boundaries, displaced
    degraded: Side  # of the same, damaged by evaluation.degrade


def calibrate(
    net: InverseTransformNet,
    label_maps: Sequence[Tensor],
    *,
    views: int = 128,
    seed: int = 0,
    console: Console | None = None,
) -> Calibration:
    """Measures the loss and its gradient for true boundaries, displaced by known amounts in random directions.

    As in :class:`inverseform_fast.InverseFormLoss`, boundaries are resized to the nearest multiple of the network's
    tile, at least one tile (so smaller maps are enlarged), and cut into tiles; void counts on neither side. All pixels
    are pixels of the tiles. This takes some minutes on a CPU.

    Args:
        net: the network; its device computes.
        label_maps: maps ``(H, W)`` of integer class ids, 255 for void, of any sizes.
        views: number of tiles to measure, spread evenly over the maps. Each is a random tile that has a boundary; a map
            without one gives no view.
        seed: seed of the tiles, the directions and the damage.
        console: shows the progress; None shows none.

    Returns:
        The result, which :func:`write` and :func:`draw` take. Its direction error is the angle, in the space of the
        eight coefficients, between the descent and the way back to the match; by chance it is 90 degrees.

    Raises:
        ValueError: there are no label maps, or none shows a boundary; or a number is out of its range.
    """
    if len(label_maps) == 0:
        raise ValueError("label_maps must hold at least one label map, got none")
    if views < 1:
        raise ValueError(f"views must be at least 1, got {views}")
    if not 0 <= seed <= MOST_SEED:
        raise ValueError(f"seed must be from 0 to {MOST_SEED}, got {seed}")
    generator = Generator().manual_seed(seed)
    device = next(net.parameters()).device
    measured = [
        view
        for index in track(range(views), "calibrating", console or Console(quiet=True))
        if (view := _view(net, label_maps[index * len(label_maps) // views].to(device), generator)) is not None
    ]
    if not measured:
        raise ValueError(
            f"label_maps must show a boundary between two classes, but none of {min(views, len(label_maps))} does: "
            "they are of one class, or void (255) parts the classes everywhere"
        )
    crisp, degraded = (_side(side) for side in torch.stack(measured).unbind(1))
    return {
        "tile": net.tile,
        "views": len(measured),
        "displacement": list(DISPLACEMENTS),
        "crisp": crisp,
        "degraded": degraded,
    }


def _side(measured: Tensor) -> Side:
    """Takes quantiles over the views of the values and the direction errors, ``measured (views, 2, K)``."""
    value, angle = measured.unbind(1)
    return {
        "value": _quantiles(value),
        "match": value[:, 0].median().item(),
        "direction_error": {percent: [None, *row] for percent, row in _quantiles(angle[:, 1:]).items()},
    }


def _view(net: InverseTransformNet, labels: Tensor, generator: Generator) -> Tensor | None:
    """Measures value (pixels) and direction error (degrees) at a random tile of ``labels (H, W)``, crisp and degraded.

    Returns:
        ``(2, 2, K)`` by side, quantity and displacement, on the CPU; None if no tile has a boundary.
    """
    target = boundary_map(labels[None])[:, None]
    boundary = (target == 1).float()
    size = nearest_multiples(target, net.tile)
    valid, true = extract_tiles(torch.ones_like(boundary), target, size, net.tile, activation=None)
    seen = (true > 0).flatten(1).any(1).nonzero()[:, 0]
    if not len(seen):
        return None
    chosen = int(seen[torch.randint(len(seen), (), generator=generator)])
    half, directions = net.tile / 2, torch.randn(len(DISPLACEMENTS), 8, generator=generator)
    a = torch.nn.functional.normalize(directions) * torch.tensor(DISPLACEMENTS)[:, None] / half
    a = a.to(labels.device).requires_grad_()
    theta = _place(chosen, size[0] // net.tile, size[1] // net.tile).to(a) @ homography.exp(a)
    moved = homography_warp(boundary, theta[None], (net.tile, net.tile), padding="border")[0] * valid[chosen]
    # The first displacement is 0, so the first tile is the true one, resampled like the displaced ones.
    match = moved[:1].detach().expand_as(moved)
    rows = []
    for predicted in (moved, degrade(moved.cpu(), generator).to(moved)):
        value = net.algebra(predicted, match).norm(dim=1) * half
        (slope,) = torch.autograd.grad(value.sum(), a, retain_graph=True)
        angle = torch.nn.functional.cosine_similarity(slope, a.detach()).clamp(-1, 1).acos().rad2deg()
        rows.append(torch.stack((value.detach(), angle)))
    return torch.stack(rows).cpu()


def _place(index: int, rows: int, columns: int) -> Tensor:
    """Returns the homography ``(3, 3)`` from the coordinates of tile ``index`` of a grid to those of the whole map."""
    row, column = divmod(index, columns)
    x, y = (2 * column + 1) / columns - 1, (2 * row + 1) / rows - 1
    return torch.tensor([[1 / columns, 0, x], [0, 1 / rows, y], [0, 0, 1]])


def _quantiles(values: Tensor) -> dict[str, list[float]]:
    """Takes ``QUANTILES`` of ``values (views, K)`` over the views; each is a list of length K."""
    rows = values.quantile(torch.tensor(QUANTILES) / 100, dim=0).tolist()
    return {str(percent): row for percent, row in zip(QUANTILES, rows, strict=True)}


def write(result: Calibration, path: Path) -> None:
    """Write the result of :func:`calibrate` as JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(json.dumps(result, indent=2).encode()))


def draw(result: Calibration, path: Path) -> None:
    """Draw the result of :func:`calibrate` as a PNG, atomically: values above, direction errors below."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharex=True, sharey="row", layout="constrained")
    displacement = result["displacement"]
    sides = result["crisp"], result["degraded"]
    titles = "the true boundary, displaced", "the same, broken, blurred, faded and noisy"
    for side, title, (top, bottom) in zip(sides, titles, axes.T, strict=True):
        _bands(top, displacement, side["value"])
        _bands(
            bottom,
            displacement[1:],
            {
                percent: [degrees for degrees in row if degrees is not None]
                for percent, row in side["direction_error"].items()
            },
        )
        top.plot(displacement, displacement, color="black", linestyle="--", linewidth=1)
        bottom.axhline(90, color="black", linestyle="--", linewidth=1)
        match = side["match"]
        arrow = {"arrowstyle": "-", "shrinkB": 0}
        top.annotate(f"at the match: {match:.2g} px", (0, match), (6, 0.5), va="bottom", arrowprops=arrow)
        top.set_title(title)
        bottom.set_xlabel(f"true displacement |a|, px of a {result['tile']} px tile")
    axes[0, 0].text(0.8 * displacement[-1], 0.84 * displacement[-1], "value = displacement", ha="right", va="bottom")
    axes[1, 0].text(displacement[-1] / 2, 92, "chance", ha="center", va="bottom")
    axes[1, 0].legend(loc="upper left")
    axes[0, 0].set(ylabel="loss |a|, px", xlim=(0, displacement[-1]), ylim=(0, None))
    axes[1, 0].set(ylabel="direction error of the gradient, degrees", ylim=(0, 180), yticks=range(0, 181, 30))
    figure.suptitle(f"InverseForm against a known displacement, {result['views']} views")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
    plt.close(figure)


def _bands(axis: plt.Axes, x: Sequence[float], quantiles: Mapping[str, Sequence[float]]) -> None:
    axis.plot(x, quantiles["50"], color="#0072b2", marker=".", label="median")
    for low, high, alpha, label in (("25", "75", 0.35, "half of the views"), ("5", "95", 0.18, "90 % of the views")):
        axis.fill_between(x, quantiles[low], quantiles[high], color="#0072b2", alpha=alpha, linewidth=0, label=label)
    axis.grid(alpha=0.25)
