"""The default network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import homography
from ..checks import check_tiles, check_whole
from ..functional import align, homography_warp
from ..reference.align import CELL, CONVOLUTIONS, FEATURES, NORM_GROUPS
from .base import InverseTransformNet


class Align(InverseTransformNet):
    """The default network: it measures where each cell moved, and how certain that is, and solves for the homography.

    Shared features of both tiles and their local correlation give each cell of 8 x 8 pixels a displacement d and a
    2 x 2 information matrix W, which has rank one where a straight line shows only the motion across it. The
    coefficients that fit best solve 8 linear equations: ``a = (sum A^T W A + prior)^-1 sum A^T W d``, where A is the
    generators' velocity at the cell. The network measures both ways and negates one of the two. So identical maps give
    exactly the identity, and swapped maps exactly the inverse, for any weights. Tiles without evidence give nearly the
    identity, because W is then small beside the prior. A second pass measures what is left after both tiles have been
    warped half the way towards each other.

    This class holds the weights; :mod:`inverseform_fast.reference.align` says what is computed with them.

    Args:
        tile: edge of the tiles in pixels, a multiple of 8.
    """

    architecture = "align"
    antisymmetric = True
    passes = 2
    velocity: Tensor

    def __init__(self, tile: int = 224) -> None:
        super().__init__()
        tile = check_whole(tile, "tile", 0, " of pixels")
        if tile < CELL or tile % CELL:
            raise ValueError(f"tile must be a positive multiple of {CELL}, got {tile}")
        self.tile = tile
        first, second, third, hidden, middle, last = (
            nn.Conv2d(inputs, outputs, edge) for outputs, inputs, edge in CONVOLUTIONS
        )
        # The keys are those of the weight files.
        self.features = nn.ModuleDict({"1": first, "3": second, "5": third, "6": nn.GroupNorm(NORM_GROUPS, FEATURES)})
        self.measure = nn.ModuleDict({"0": hidden, "2": middle, "4": last})
        nn.init.normal_(last.weight, std=0.02)
        self.prior = nn.Parameter(torch.full((8,), 3.0))  # logarithm of its precision
        self.register_buffer("velocity", homography.velocity(_cell_centres(tile // CELL)), persistent=False)

    @property
    def weights(self) -> list[Tensor]:
        """The weights in the order in which :func:`inverseform_fast.functional.align` takes them."""
        return [*self.features.parameters(), *self.measure.parameters(), self.prior, self.velocity]

    def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
        return self.estimates(predicted, target)[-1]

    def estimates(self, predicted: Tensor, target: Tensor) -> list[Tensor]:
        check_tiles(predicted, target, self.tile)
        if predicted.shape[0] == 0:  # pixel_unshuffle fails on an empty batch
            return [predicted.flatten(1)[:, :8]] * self.passes
        found = [align(predicted, target, self.weights)]
        size = predicted.shape[-2:]
        for _ in range(1, self.passes):
            half, back = homography.exp(found[-1] / 2), homography.exp(-found[-1] / 2)
            warped = homography_warp(predicted, back, size), homography_warp(target, half, size)
            found.append(homography.symmetric_product(found[-1], align(*warped, self.weights)))
        return found


def _cell_centres(count: int) -> Tensor:
    """Centres ``(count^2, 2)`` (x, y) of ``count * count`` cells in [-1, 1], row by row."""
    along = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 2 - 1
    y, x = torch.meshgrid(along, along, indexing="ij")
    return torch.stack((x, y), -1).flatten(0, 1)
