"""Inverse-transformation networks: two boundary tiles in, their homography out (paper, section 3.2); weight files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import homography
from ..files import load_strictly, read_weights, write_weights
from ..functional import align, homography_warp, local_correlation
from ..reference.align import CELL

WEIGHTS = Path(__file__).parents[1] / "weights"


class InverseTransformNet(nn.Module):
    """Base of the networks; ``InverseTransformNet.compact()`` and ``.from_file(path)`` make one.

    Attributes:
        tile: edge in pixels of the tiles that the network reads.
        sizes: names of the attributes, all integers, that the network is constructed from.
        antisymmetric: whether swapped maps give exactly the inverse, for any weights.
    """

    tile: int
    architecture: str
    sizes: tuple[str, ...] = ("tile",)
    antisymmetric: bool = False

    def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Lie-algebra coefficients ``(N, 8)``, in half tiles, of the homography between two batches of tiles.

        Args:
            predicted, target: ``(N, 1, tile, tile)`` boundary probabilities.
        """
        raise NotImplementedError

    def estimates(self, predicted: Tensor, target: Tensor) -> list[Tensor]:
        """The coefficients after each refinement, the final ones last: what training minimises the error of."""
        return [self.algebra(predicted, target)]

    def pair(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Homography ``theta_hat (N, 3, 3)``: ``predicted(p) = target(theta_hat p)``; identity for identical maps."""
        return homography.exp(self.algebra(predicted, target))

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        return self.pair(predicted, target)

    def save(self, path: str | os.PathLike[str], **metadata: str) -> None:
        """Write the weights as safetensors, atomically, with what :meth:`from_file` needs to rebuild the network."""
        sizes = {name: str(getattr(self, name)) for name in self.sizes}
        write_weights(Path(path), self, {"architecture": self.architecture, **sizes, **metadata})

    @staticmethod
    def compact() -> InverseTransformNet:
        """The default network with the weights shipped in the package."""
        return InverseTransformNet.from_file(WEIGHTS / "compact.safetensors")

    @staticmethod
    def dense(tile: int = 224, outputs: int = 8) -> InverseTransformNet:
        """The paper's network, untrained; see :class:`inverseform_fast.nets.paper.Dense`."""
        return Dense(tile, outputs)

    @staticmethod
    def aet(tile: int = 224) -> InverseTransformNet:
        """The convolutional siamese network of the paper's Table 5, untrained; see :class:`.paper.Aet`."""
        return Aet(tile)

    @staticmethod
    def from_release(path: str | os.PathLike[str]) -> InverseTransformNet:
        """The network of the authors' public release, ``distance_measures_regressor.pth``, on the CPU, in float32.

        A state dict, also one under ``"state_dict"`` or saved from ``nn.DataParallel``, of ``fc.0``, ``fc.2`` and
        ``fc.4``: 100352 -> 1000 -> 32 -> 4, for tiles of 224 pixels. The authors call the 4 outputs normalised shifts
        and scales (https://github.com/Qualcomm-AI-research/InverseForm/issues/1) and minimise their norm, on maps of
        672 x 1344. Read here as in :class:`inverseform_fast.nets.paper.Dense`, so
        ``InverseFormLoss(net=..., distance="log", resize=(672, 1344))`` is that norm, whatever their order.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, holds anything but tensors (code, say, which is not run), or a tensor is missing,
            one too many or of another shape.
        """
        return read_release(Path(path))

    @staticmethod
    def from_file(path: str | os.PathLike[str]) -> InverseTransformNet:
        """The network that :meth:`save` wrote, on the CPU, in float32.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no complete safetensors file (a pickle, say), of no known architecture, or its tensors do
            not fit.
        """
        path = Path(path)
        header, weights = read_weights(path, "net")
        kind = ARCHITECTURES.get(header.get("architecture", ""))
        if kind is None or not all(header.get(name, "").isdigit() for name in kind.sizes):
            raise ValueError(
                f"net: {path} must name an architecture ({', '.join(ARCHITECTURES)}) and its sizes in its metadata, "
                f"got {json.dumps(header)}"
            )
        net = kind(**{name: int(header[name]) for name in kind.sizes})
        load_strictly(net, weights, path, "net")
        return net.eval()


class Align(InverseTransformNet):
    """The default network: it measures where each cell went, and how sure that is, and solves for the homography.

    Shared features of both tiles and their local correlation give each cell of 8 x 8 pixels a displacement and a 2 x 2
    information matrix W, of rank one where a straight line shows motion across it only. The coefficients that fit best
    are the solution of 8 linear equations, ``a = (sum A^T W A + prior)^-1 sum A^T W d``, A the generators' velocity at
    the cell. Measured both ways, with the sign of one turned: identical maps give exactly the identity and swapped maps
    exactly the inverse, for any weights; and tiles that say nothing give nearly nothing, for W is then small beside the
    prior. A second pass measures what is left after either tile has been warped half the way to the other.

    What it computes stands in :mod:`inverseform_fast.reference.align`; here are its weights.

    Args:
        tile: edge of the tiles in pixels, a multiple of 8.
    """

    architecture = "align"
    antisymmetric = True
    passes = 2
    velocity: Tensor

    def __init__(self, tile: int = 224) -> None:
        super().__init__()
        _check_tile(tile, CELL)
        self.tile = tile
        # The keys are those of the weight files.
        self.features = nn.ModuleDict(
            {"1": nn.Conv2d(16, 10, 3), "3": nn.Conv2d(10, 24, 3), "5": nn.Conv2d(24, 16, 1), "6": nn.GroupNorm(4, 16)}
        )
        self.measure = nn.ModuleDict(
            {"0": nn.Conv2d(114, 26, 1), "2": nn.Conv2d(26, 16, 3), "4": (last := nn.Conv2d(16, 5, 1))}
        )
        nn.init.normal_(last.weight, std=0.02)
        self.prior = nn.Parameter(torch.full((8,), 3.0))  # logarithm of its precision
        self.register_buffer("velocity", homography.velocity(_cell_centres(tile // CELL)), persistent=False)

    @property
    def weights(self) -> list[Tensor]:
        """As :func:`inverseform_fast.functional.align` takes them."""
        return [*self.features.parameters(), *self.measure.parameters(), self.prior, self.velocity]

    def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
        return self.estimates(predicted, target)[-1]

    def estimates(self, predicted: Tensor, target: Tensor) -> list[Tensor]:
        if predicted.shape[0] == 0:  # pixel_unshuffle fails on an empty batch
            return [predicted.flatten(1)[:, :8]] * self.passes
        found = [align(predicted, target, self.weights)]
        size = predicted.shape[-2:]
        for _ in range(1, self.passes):
            half, back = homography.exp(found[-1] / 2), homography.exp(-found[-1] / 2)
            warped = homography_warp(predicted, back, size), homography_warp(target, half, size)
            found.append(homography.symmetric_product(found[-1], align(*warped, self.weights)))
        return found


class Compact(InverseTransformNet):
    """The default network before :class:`Align`: features and correlation as there, then a trunk; antisymmetrised.

    ``a = f(x1, x2) - f(x2, x1)``: identical maps give exactly the identity and swapped maps exactly the inverse, for
    any weights.

    Args:
        tile: edge of the tiles in pixels, a multiple of 32.
    """

    architecture = "compact"
    antisymmetric = True

    def __init__(self, tile: int = 224) -> None:
        super().__init__()
        _check_tile(tile, 32)
        self.tile = tile
        self.reach, self.groups = 3, 2
        width = 32
        self.features = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(16, 24, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(24, width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 1),
            # Centred and of unit variance, or the correlation is all mean and training rests on a plateau.
            nn.GroupNorm(4, width),
        )
        self.trunk = nn.Sequential(
            nn.Conv2d(self.groups * (2 * self.reach + 1) ** 2 + width, 64, 1),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, 96, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(96 * (tile // 32) ** 2, 96),
            nn.SiLU(),
            nn.Linear(96, 8, bias=False),
        )

    def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
        if predicted.shape[0] == 0:  # pixel_unshuffle fails on an empty batch
            return predicted.flatten(1)[:, :8]
        first, second = self.features(predicted), self.features(target)
        # Two calls, not one batch: a row's rounding may depend on its place in the batch, and d(x, x) must be 0.
        return self._ordered(first, second) - self._ordered(second, first)

    def _ordered(self, first: Tensor, second: Tensor) -> Tensor:
        return self.trunk(torch.cat((local_correlation(first, second, self.reach, self.groups), first), 1))


def _check_tile(tile: int, cell: int) -> None:
    if tile < cell or tile % cell:
        raise ValueError(f"tile must be a positive multiple of {cell}, got {tile}")


def _cell_centres(count: int) -> Tensor:
    """``(count^2, 2)`` (x, y) in [-1, 1], row by row."""
    along = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 2 - 1
    y, x = torch.meshgrid(along, along, indexing="ij")
    return torch.stack((x, y), -1).flatten(0, 1)


from .paper import Aet, Dense, read_release  # noqa: E402 (they derive from what is above)

ARCHITECTURES: dict[str, type[Any]] = {"align": Align, "compact": Compact, "dense": Dense, "aet": Aet}
