"""How well an inverse-transformation network reads displacements off boundaries that it never saw."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import homography
from ..nets import InverseTransformNet
from .pairs import make_pairs


@torch.no_grad()
def evaluate(
    net: InverseTransformNet,
    label_maps: Tensor,
    *,
    count: int = 2048,
    max_pixels: float = 16.0,
    damage_every: int = 0,
    turn: bool = False,
    seed: int = 0,
    batch: int = 64,
) -> dict[str, float]:
    """Accuracy on tiles from random places of label maps, moved by random homographies of ``|a|`` up to ``max_pixels``.

    ``damage_every``: of the predicted tiles, see :func:`.pairs.make_pairs`; 0 for crisp ones. ``turn``: turn, flip and
    zoom (by up to 10 per cent) the views, too.

    Tiles without a boundary are left out, as the loss leaves them out.

    Returns:
        ``corner_error`` and ``identity_corner_error`` (mean over pairs of the mean over the four corners, in pixels of
        the tile, of the network and of predicting no displacement), their ratio ``relative_corner_error``,
        ``spearman`` (rank correlation between ``|a|`` and the true mean corner displacement) and ``pairs``.
    """
    generator = torch.Generator(label_maps.device).manual_seed(seed)
    half = net.tile / 2
    errors, displacements, lengths = [], [], []
    for _ in range(0, count, batch):
        pairs = make_pairs(
            label_maps,
            batch,
            net.tile,
            max_pixels / half,
            generator,
            damage_every=damage_every,
            zoom=(0.9, 1.1) if turn else (1.0, 1.0),
            turn=turn,
        )
        seen = (pairs.target > 0).flatten(1).any(1)
        estimate, theta = net.algebra(pairs.predicted[seen], pairs.target[seen]), homography.exp(pairs.a[seen])
        errors.append(homography.corner_displacement(homography.exp(estimate), theta) * half)
        displacements.append(homography.corner_displacement(theta) * half)
        lengths.append(estimate.norm(dim=1))
    error, displacement, length = torch.cat(errors), torch.cat(displacements), torch.cat(lengths)
    return {
        "pairs": float(len(error)),
        "corner_error": error.mean().item(),
        "identity_corner_error": displacement.mean().item(),
        "relative_corner_error": (error.mean() / displacement.mean()).item(),
        "spearman": _spearman(length, displacement),
    }


def _spearman(x: Tensor, y: Tensor) -> float:
    ranks = torch.stack((x.argsort().argsort(), y.argsort().argsort())).double()
    return torch.corrcoef(ranks)[0, 1].item()
