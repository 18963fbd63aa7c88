"""What stands for an inverse-transformation network where labels are moved: a descent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from benchmarks.studies.alignment.descent import descend
from inverseform_fast import InverseTransformNet, homography
from inverseform_fast.functional import homography_warp


class Descent(InverseTransformNet):
    """Finds the homography whose blurred target overlaps most with the blurred prediction, by Adam from the identity.

    Overlap is the cosine of the two maps. Maps are halved first, which the blur allows.

    Args:
        blur: standard deviation in pixels of the tile.
        rate: of the first step, in pixels; it falls to 0 along a cosine.
        steps: number of steps.
        tile: edge of the tiles in pixels.
    """

    def __init__(self, blur: float, rate: float, steps: int, tile: int = 224) -> None:
        super().__init__()
        self.blur, self.rate, self.steps, self.tile = blur, rate, steps, tile

    @torch.enable_grad()
    def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
        seen, given = (self.blurred(side) for side in (predicted, target))

        def apart(a: Tensor) -> Tensor:
            moved = homography_warp(given, homography.exp(a))
            return -F.cosine_similarity(moved.flatten(1), seen.flatten(1)).sum()

        return descend(predicted.new_zeros(len(predicted), 8), apart, 2 * self.rate / self.tile, self.steps)

    def blurred(self, maps: Tensor) -> Tensor:
        sigma = self.blur / 2
        return gaussian_blur(F.avg_pool2d(maps.detach(), 2), [2 * round(2.5 * sigma) + 1] * 2, [sigma, sigma])
