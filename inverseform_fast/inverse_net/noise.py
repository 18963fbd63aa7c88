"""The noise of a network on a model's predictions is estimated from labels that may themselves be displaced."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..nets import InverseTransformNet
from .predictions import Predictions, upright_views

SQUARES = 4  # along each edge of the chessboard
SHARED = 1.5  # how many times as large the errors are as half the difference of the two sides
QUANTILE = 0.9
LEAST = 1e-6  # half tiles: a weight file must name a positive noise


@torch.no_grad()
def estimate_noise(net: InverseTransformNet, predictions: Predictions, *, count: int = 256, seed: int = 0) -> float:
    """Estimates what the network reads off a model's predictions because of its own errors and the model's.

    Labels may be displaced, so what is read of labels as they are would hold their displacement too. Therefore each
    tile's labels are first moved by the network's estimate, and then a chessboard of 4 x 4 squares parts the tile: the
    network reads the white and the black squares alone. What is left of the labels' displacement is in both readings
    and drops out of their difference, if it is smooth over the tile. The errors differ, as far as they belong to a
    place: if they were independent, half the difference would be as large as the error of the whole tile. Errors that
    reach across squares are in both. On predictions of three models of CamVid, whose labels are exact, they made the
    whole 1.3 to 1.9 times as large, so half the difference is multiplied by 1.5.

    Args:
        net: the network, on the predictions' device.
        predictions: what a model predicts of images that the network was not tuned on.
        count: number of tiles.
        seed: seed of the tiles.

    Returns:
        ``|a|`` in half tiles, below which 90 % of the errors are.

    Raises:
        ValueError: no tile has a boundary.
    """
    generator = Generator(predictions.labels.device).manual_seed(seed)
    white = chessboard(net.tile, generator.device)
    differences = []
    for views in upright_views(predictions, predictions.kinds[0], net.tile, count, generator):
        predicted, target, _ = views.still()
        predicted, target, _ = views.moved(-net.algebra(predicted, target))
        first, second = (net.algebra(predicted * side, target * side) for side in (white, ~white))
        differences.append((first - second).norm(dim=1) / 2)
    return max(SHARED * torch.cat(differences).quantile(QUANTILE).item(), LEAST)


def chessboard(tile: int, device: torch.device) -> Tensor:
    """The white squares ``(tile, tile)``, bool, of a chessboard."""
    along = torch.arange(tile, device=device) * SQUARES // tile % 2
    return along[:, None] == along
