"""Calibration on one's own label maps: what the loss says of a known displacement, and where its gradient points."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Generator, Tensor

from .. import homography
from ..files import write_atomically
from ..functional import boundary_map, extract_tiles, homography_warp
from ..losses import nearest_multiples
from ..nets import InverseTransformNet
from ..segmentation.datasets.files import parallel_map, read_label
from .evaluation import degrade

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DISPLACEMENTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 20, 24)  # of pixels of the tile; 0 comes first
QUANTILES = (5, 25, 50, 75, 95)


def read_label_maps(folder: Path, limit: int = 128) -> list[Tensor]:
    """Label maps ``(H, W)`` uint8, of any sizes, from a folder of PNG files of class ids and its sub-folders.

    Of more than ``limit`` files, every second or third and so on is read.

    Raises:
        FileNotFoundError: there is no such folder, or no PNG in it. ValueError: a file cannot be read or has other than
        one 8-bit channel; the message names it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"labels must be a folder of PNG label maps: no folder {folder}")
    paths = sorted(folder.rglob("*.png"))
    if not paths:
        raise FileNotFoundError(f"labels must hold PNG files whose pixel values are class ids: none below {folder}")
    return parallel_map(read_label, paths[:: -(-len(paths) // limit)])


def calibrate(
    net: InverseTransformNet, label_maps: Sequence[Tensor], *, count: int = 128, seed: int = 0
) -> dict[str, Any]:
    """The loss and its gradient for true boundaries displaced by known amounts in random directions.

    As in :class:`inverseform_fast.InverseFormLoss`, boundaries are resized to the nearest multiple of the network's
    tile, at least one tile (smaller maps are enlarged), cut into tiles, and void counts on neither side. Pixels are
    those of the tiles. It takes some minutes on a CPU.

    Args:
        net: the network; computes on its device.
        label_maps: each ``(H, W)`` of integer class ids, 255 void, of any size.
        count: views, spread evenly over the maps, each of a random tile with a boundary; maps without one give none.
        seed: of the tiles, the directions and the damage.

    Returns:
        What :func:`write` can write: ``tile``, ``views`` (used), ``displacement`` (K,) ``|a|`` in pixels, and for
        ``"crisp"`` boundaries and for ``"degraded"`` ones (see :func:`.evaluation.degrade`): ``value``, the loss
        ``|a|`` in pixels, and ``direction_error``, the angle in degrees between descent by the eight coefficients of
        the displacement and the way home (90 by chance; null at 0), each ``(K,)`` by ``QUANTILES`` over the views in
        per cent; and ``match``, the median value at displacement 0.

    Raises:
        ValueError: there are no label maps, or none shows a boundary.
    """
    if len(label_maps) == 0:
        raise ValueError("label_maps must hold at least one label map, got none")
    generator = Generator().manual_seed(seed)
    device = next(net.parameters()).device
    views = [
        view
        for index in range(count)
        if (view := _view(net, label_maps[index * len(label_maps) // count].to(device), generator)) is not None
    ]
    if not views:
        raise ValueError(
            f"label_maps must show a boundary between two classes, but none of {min(count, len(label_maps))} does: "
            "they are of one class, or void (255) parts the classes everywhere"
        )
    result: dict[str, Any] = {"tile": net.tile, "views": len(views), "displacement": list(DISPLACEMENTS)}
    for name, measured in zip(("crisp", "degraded"), torch.stack(views).unbind(1), strict=True):
        value, angle = measured.unbind(1)  # (views, K)
        result[name] = {
            "value": _quantiles(value),
            "match": value[:, 0].median().item(),
            "direction_error": {name: [None, *row] for name, row in _quantiles(angle[:, 1:]).items()},
        }
    return result


def _view(net: InverseTransformNet, labels: Tensor, generator: Generator) -> Tensor | None:
    """Value in pixels and direction error in degrees, ``(2, 2, K)``, crisp and degraded, at a random tile."""
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
    # The first displacement is 0: the true tile, sampled as the displaced ones are.
    match = moved[:1].detach().expand_as(moved)
    rows = []
    for predicted in (moved, degrade(moved.cpu(), generator).to(moved)):
        value = net.algebra(predicted, match).norm(dim=1) * half
        (slope,) = torch.autograd.grad(value.sum(), a, retain_graph=True)
        angle = torch.nn.functional.cosine_similarity(slope, a.detach()).clamp(-1, 1).acos().rad2deg()
        rows.append(torch.stack((value.detach(), angle)))
    return torch.stack(rows).cpu()


def _place(index: int, rows: int, columns: int) -> Tensor:
    """From the coordinates of a tile of the grid to those of the map, ``(3, 3)``."""
    row, column = divmod(index, columns)
    x, y = (2 * column + 1) / columns - 1, (2 * row + 1) / rows - 1
    return torch.tensor([[1 / columns, 0, x], [0, 1 / rows, y], [0, 0, 1]])


def _quantiles(values: Tensor) -> dict[str, list[float]]:
    rows = values.quantile(torch.tensor(QUANTILES) / 100, dim=0).tolist()
    return {str(percent): row for percent, row in zip(QUANTILES, rows, strict=True)}


def write(result: dict[str, Any], path: Path) -> None:
    """The result of :func:`calibrate` as JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(json.dumps(result, indent=2).encode()))


def draw(result: dict[str, Any], path: Path) -> None:
    """The result of :func:`calibrate` as a PNG, atomically: value above, direction error below, crisp and degraded."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharex=True, sharey="row", layout="constrained")
    displacement = result["displacement"]
    titles = {"crisp": "the true boundary, displaced", "degraded": "the same, broken, blurred, faded and noisy"}
    for (name, title), (top, bottom) in zip(titles.items(), axes.T, strict=True):
        _bands(top, displacement, result[name]["value"])
        _bands(bottom, displacement[1:], {q: row[1:] for q, row in result[name]["direction_error"].items()})
        top.plot(displacement, displacement, color="black", linestyle="--", linewidth=1)
        bottom.axhline(90, color="black", linestyle="--", linewidth=1)
        match = result[name]["match"]
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


def _bands(axis: plt.Axes, x: Sequence[float], quantiles: dict[str, list[float]]) -> None:
    axis.plot(x, quantiles["50"], color="#0072b2", marker=".", label="median")
    for low, high, alpha, label in (("25", "75", 0.35, "half of the views"), ("5", "95", 0.18, "90 % of the views")):
        axis.fill_between(x, quantiles[low], quantiles[high], color="#0072b2", alpha=alpha, linewidth=0, label=label)
    axis.grid(alpha=0.25)
