"""What stands for an inverse-transformation network where labels are moved: a descent, and a network that is shrunk."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.stats import chi2
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from benchmarks.studies.alignment.descent import descend
from inverseform_fast import InverseTransformNet, homography
from inverseform_fast.functional import homography_warp
from inverseform_fast.inverse_net.noise import QUANTILE
from inverseform_fast.inverse_net.predictions import Predictions, upright_views

# The noise is the 90 % quantile of the errors' length; of 8 normal numbers the mean square is so much of its square.
SQUARE_OF_QUANTILE = 8 / chi2(8).ppf(QUANTILE)


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


class Shrunk(InverseTransformNet):
    """A network whose readings are multiplied by a factor. It has no noise figure, so no other dead zone."""

    def __init__(self, net: InverseTransformNet, factor: float) -> None:
        super().__init__()
        self.net, self.factor, self.tile = net, factor, net.tile

    def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
        return self.factor * self.net.algebra(predicted, target)


@torch.no_grad()
def pooled(net: InverseTransformNet, predictions: Predictions, count: int = 256) -> Shrunk:
    """The network with one dead zone for all images: the James-Stein estimate of the whole data set.

    The factor is 1 - (mean square of the errors) / (mean square of the readings), at least 0. A reading that is short
    by chance is not taken for noise where the others are long.
    """
    views = upright_views(predictions, predictions.kinds[0], net.tile, count, torch.Generator().manual_seed(0))
    pairs = (each.still() for each in views)
    readings = torch.cat([net.algebra(each.predicted, each.target) for each in pairs])
    errors = SQUARE_OF_QUANTILE * (net.noise or 0) ** 2
    return Shrunk(net, max(0.0, 1 - errors / readings.square().sum(1).mean().item()))
