"""The networks that the paper compares (sections 3.2 and 5)."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from .. import homography
from ..checks import check_tiles, check_whole
from .base import InverseTransformNet

# The outputs are these entries (row, column) of an affine matrix's logarithm, by the number of outputs.
_ENTRIES = {
    6: ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)),
    4: ((0, 2), (1, 2), (0, 0), (1, 1)),
}


class Dense(InverseTransformNet):
    """The paper's network: it maps both tiles, flattened and concatenated, by 2 tile^2 -> 1000 -> 32 -> outputs.

    Identical maps do not give exactly the identity, nor swapped maps exactly the inverse: training only comes near.
    An untrained network always gives the identity. Training needs undamaged pairs in both orders and a learning rate
    of about 1e-4. Otherwise its ReLUs die before it learns anything, and it gives the identity for ever.

    The outputs ``c (N, outputs)`` mean:

    - 8: the Lie-algebra coefficients ``a``.
    - 6: the first two rows of an affine matrix's logarithm, ``theta = exp([[c0, c1, c2], [c3, c4, c5], [0, 0, 0]])`` up
      to scale. To first order they are theta's rows minus the identity's; unlike those, they always give a homography
      that can be inverted.
    - 4: shift x, shift y, scale x and scale y, which are the entries c2, c5, c0 and c4 above; 0 means no change.

    All are in half tiles: ``a`` is linear in ``c`` and ``|a| = |c|``.

    Args:
        tile: edge of the tiles in pixels.
        outputs: 8, 6 or 4.
    """

    architecture = "dense"
    sizes = ("tile", "outputs")
    coefficients: Tensor

    def __init__(self, tile: int = 224, outputs: int = 8) -> None:
        super().__init__()
        tile, outputs = check_whole(tile, "tile", 1, " of pixels"), check_whole(outputs, "outputs", 1)
        if outputs not in (8, 6, 4):
            raise ValueError(f"outputs must be 8, 6 or 4, got {outputs}")
        self.tile, self.outputs = tile, outputs
        first, second, last = nn.Linear(2 * tile**2, 1000), nn.Linear(1000, 32), nn.Linear(32, outputs)
        # The others keep PyTorch's initialization: with weights that give hidden values of unit size, the network
        # would learn the training pairs by heart.
        _start_at_identity(last)
        self.fc = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
        self.register_buffer("coefficients", _coefficients(outputs), persistent=False)

    def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
        check_tiles(predicted, target, self.tile)
        return self.fc(torch.cat((predicted.flatten(1), target.flatten(1)), 1)) @ self.coefficients


class Aet(InverseTransformNet):
    """The siamese network of the paper's Table 5, after AET (arXiv 1901.04596): one encoder, then dense layers.

    As with :class:`Dense`, identical maps do not give exactly the identity, nor swapped maps exactly the inverse.
    Unlike in AET, the features are not averaged over the tile, because the network could then not see where a line is.
    Its activations are smooth, because ReLUs would die as in :class:`Dense`.

    Args:
        tile: edge of the tiles in pixels.
    """

    architecture = "aet"

    def __init__(self, tile: int = 224) -> None:
        super().__init__()
        self.tile = tile = check_whole(tile, "tile", 1, " of pixels")
        widths = (1, 16, 32, 48, 64)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.SiLU()]
        self.encoder = nn.Sequential(*layers, nn.Flatten())
        features, last = widths[-1] * math.ceil(tile / 16) ** 2, nn.Linear(128, 8)
        _start_at_identity(last)
        self.fc = nn.Sequential(nn.Linear(2 * features, 128), nn.SiLU(), last)

    def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
        check_tiles(predicted, target, self.tile)
        return self.fc(torch.cat((self.encoder(predicted), self.encoder(target)), 1))


def _coefficients(outputs: int) -> Tensor:
    """Lie-algebra coefficients ``(outputs, 8)`` of one unit of each output of :class:`Dense`."""
    if outputs == 8:
        return torch.eye(8)
    unit = torch.zeros(outputs, 3, 3)
    for k, (row, column) in enumerate(_ENTRIES[outputs]):
        unit[k, row, column] = 1
    generators = homography.basis()
    return unit.flatten(1) @ (generators / generators.square().sum((1, 2), keepdim=True)).flatten(1).mT


def _start_at_identity(last: nn.Linear) -> None:
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
