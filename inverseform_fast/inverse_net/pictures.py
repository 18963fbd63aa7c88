"""Pictures show pairs of boundary tiles, and how well the homographies that a network estimates explain them."""

from __future__ import annotations

import matplotlib
import numpy as np
import torch
from torch import Tensor

from .. import homography
from ..functional import homography_warp
from ..nets import InverseTransformNet
from .pairs import Pairs

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

# Ink is what a map takes from white paper: Okabe and Ito's vermillion or blue, and black where both maps are 1.
_PREDICTED, _TARGET = (1 - torch.tensor(color) for color in ((0.84, 0.37, 0.0), (0.0, 0.45, 0.70)))


@torch.no_grad()
def draw_pairs(net: InverseTransformNet, pairs: Pairs) -> Figure:
    """Draws a column for each pair: above, both maps as they are; below, with the target moved by the estimate.

    Where the estimate is right, the lines of the lower row lie on each other. The pairs are on the network's device.
    """
    estimate = net.algebra(pairs.predicted, pairs.target)
    moved = homography_warp(pairs.target, homography.exp(estimate))
    half = net.tile / 2
    theta, estimated_theta = homography.exp(pairs.a), homography.exp(estimate)
    before = homography.corner_displacement(theta) * half
    after = homography.corner_displacement(estimated_theta, theta) * half
    count = len(pairs.a)
    figure, axes = plt.subplots(2, count, figsize=(2.6 * count, 5.8), squeeze=False, layout="constrained")
    for row, targets, error in zip(axes, (pairs.target, moved), (before, after), strict=True):
        for axis, predicted, target, pixels in zip(row, pairs.predicted, targets, error, strict=True):
            axis.imshow(_overlay(predicted, target), interpolation="nearest")
            axis.set_title(f"{pixels.item():.1f} px apart", fontsize=10)
            axis.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("as they are")
    axes[1, 0].set_ylabel("target moved by the estimate")
    figure.suptitle("prediction orange, target blue; mean distance of the corners", fontsize=11)
    return figure


def _overlay(predicted: Tensor, target: Tensor) -> np.ndarray:
    """Draws ``predicted`` and ``target (1, S, S)`` as one image ``(S, S, 3)``."""
    ink = predicted[0, ..., None].cpu() * _PREDICTED + target[0, ..., None].cpu() * _TARGET
    return (1 - ink.clamp(0, 1)).numpy()
