"""Curves of two losses against a known displacement, as in the paper's Figure 2, are measured here."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from .. import homography
from ..functional import boundary_map, homography_warp
from ..nets import InverseTransformNet
from .pairs import random_views

MOTIONS = {
    "shift": ("pixels", [-16, -12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 16]),
    "turn": ("degrees", [-8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8]),
    "scale": ("per cent", [-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5]),
}


def motion(kind: str, amount: Tensor, tile: int) -> Tensor:
    """Makes homographies ``(N, 3, 3)`` of a tile by ``amount (N,)``: shifts along x in pixels, turns, or scalings.

    ``MOTIONS`` lists the kinds and their units.
    """
    zero, one = torch.zeros_like(amount), torch.ones_like(amount)
    if kind == "shift":
        entries = (one, zero, amount * 2 / tile, zero, one, zero)
    elif kind == "turn":
        angle = amount * (math.pi / 180)
        entries = (angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero)
    else:
        size = 1 + amount / 100
        entries = (size, zero, zero, zero, size, zero)
    return torch.stack((*entries, zero, zero, one), -1).unflatten(-1, (3, 3))


def displacement_curves(
    net: InverseTransformNet, label_maps: Tensor, kind: str, *, count: int = 64, seed: int = 0
) -> dict[str, Tensor]:
    """Measures two losses, and their slopes, of true boundaries against copies that are displaced by known amounts.

    Args:
        net: the inverse-transformation network.
        label_maps: ``(M, H, W)`` integer class ids, 255 for void.
        kind: ``"shift"`` (along x), ``"turn"`` or ``"scale"``; ``MOTIONS`` has the amounts and units.
        count: number of random views of one tile; those without a boundary are left out.
        seed: seed of the views.

    Returns:
        ``amount (K,)``; ``inverseform`` and ``bce (K, n)``: ``|a|`` in pixels and the class-balanced BCE of each view;
        ``inverseform_slope`` and ``bce_slope (K, n)``: their derivatives with respect to the amount. Where a slope has
        the sign of the amount, descent leads back to the match.
    """
    generator = Generator().manual_seed(seed)
    chosen = label_maps[torch.randint(len(label_maps), (count,), generator=generator)]
    view = random_views(chosen[:, None], net.tile, (0.95, 1.05), False, generator)
    boundary = (boundary_map(chosen) == 1).float()[:, None]
    target = (homography_warp(boundary, view, (net.tile, net.tile), padding="border") > 0.5).float()
    seen = (target > 0).flatten(1).any(1)
    boundary, target, view = boundary[seen], target[seen], view[seen]
    rows: dict[str, list[Tensor]] = {"inverseform": [], "bce": [], "inverseform_slope": [], "bce_slope": []}
    for amount in MOTIONS[kind][1]:
        amounts = torch.full((len(target),), float(amount), requires_grad=True)
        theta = view @ motion(kind, amounts, net.tile)
        predicted = homography_warp(boundary, theta, (net.tile, net.tile), padding="border")
        values = {"inverseform": _displacement(net, predicted, target), "bce": _balanced_bce(predicted, target)}
        for name, value in values.items():
            (slope,) = torch.autograd.grad(value.sum(), amounts, retain_graph=True)
            rows[name].append(value.detach())
            rows[f"{name}_slope"].append(slope)
    return {"amount": torch.tensor(MOTIONS[kind][1]).float(), **{name: torch.stack(row) for name, row in rows.items()}}


def _displacement(net: InverseTransformNet, predicted: Tensor, target: Tensor) -> Tensor:
    """Returns the loss ``|a| (N,)``, in pixels, of tiles ``(N, 1, S, S)``."""
    return homography.distance(net.pair(predicted, target)) * net.tile / 2


def _balanced_bce(predicted: Tensor, target: Tensor) -> Tensor:
    """Returns the BCE ``(N,)`` of probabilities ``(N, 1, S, S)``; ``boundary_loss`` would average over the tiles."""
    share = target.mean((1, 2, 3), keepdim=True)
    weight = torch.where(target > 0, 1 - share, share)
    bce = torch.nn.functional.binary_cross_entropy(predicted.clamp(0.02, 0.98), target, weight, reduction="none")
    return bce.mean((1, 2, 3))
