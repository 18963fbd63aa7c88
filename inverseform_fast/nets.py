"""Inverse-transformation networks: two boundary tiles in, their homography out (paper, section 3.2); weight files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from . import homography
from .files import write_atomically

WEIGHTS = Path(__file__).parent / "weights"


class InverseTransformNet(nn.Module):
    """Base of the networks; ``InverseTransformNet.compact()`` and ``.from_file(path)`` make one.

    Attributes:
        tile: edge in pixels of the tiles that the network reads.
    """

    tile: int
    architecture: str

    def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Lie-algebra coefficients ``(N, 8)``, in half tiles, of the homography between two batches of tiles.

        Args:
            predicted, target: ``(N, 1, tile, tile)`` boundary probabilities.
        """
        raise NotImplementedError

    def pair(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Homography ``theta_hat (N, 3, 3)``: ``predicted(p) = target(theta_hat p)``; identity for identical maps."""
        return homography.exp(self.algebra(predicted, target))

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        return self.pair(predicted, target)

    def save(self, path: str | os.PathLike[str], **metadata: str) -> None:
        """Write the weights as safetensors, atomically, with what :meth:`from_file` needs to rebuild the network."""
        path = Path(path)
        header = {"architecture": self.architecture, "tile": str(self.tile), **metadata}
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        write_atomically(path, lambda file: file.write(save(weights, header)))

    @staticmethod
    def compact() -> InverseTransformNet:
        """The default network with the weights shipped in the package."""
        return InverseTransformNet.from_file(WEIGHTS / "compact.safetensors")

    @staticmethod
    def from_file(path: str | os.PathLike[str]) -> InverseTransformNet:
        """The network that :meth:`save` wrote, on the CPU, in float32.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no complete safetensors file (a pickle, say), of no known architecture, or its tensors do
            not fit.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"net: no weight file at {path}")
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no dict)
        except SafetensorError as error:
            raise ValueError(
                f"net: {path} must be a complete safetensors file (pickled weights are refused): {error}"
            ) from error
        if header.get("architecture") not in ARCHITECTURES or not header.get("tile", "").isdigit():
            raise ValueError(
                f"net: {path} must name an architecture ({', '.join(ARCHITECTURES)}) and a tile size in its metadata, "
                f"got {json.dumps(header)}"
            )
        net = ARCHITECTURES[header["architecture"]](tile=int(header["tile"]))
        _load_strictly(net, weights, path)
        return net.eval()


class Compact(InverseTransformNet):
    """The default network: shared features of both tiles, their local correlation, a small trunk; antisymmetrised.

    ``a = f(x1, x2) - f(x2, x1)``: identical maps give exactly the identity and swapped maps exactly the inverse, for
    any weights.

    Args:
        tile: edge of the tiles in pixels, a multiple of 32.
    """

    architecture = "compact"

    def __init__(self, tile: int = 224) -> None:
        super().__init__()
        if tile < 32 or tile % 32:
            raise ValueError(f"tile must be a positive multiple of 32, got {tile}")
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


def local_correlation(first: Tensor, second: Tensor, reach: int, groups: int) -> Tensor:
    """Mean product, group by group, of each cell's features with those of the other map's cells up to ``reach`` away.

    ``(N, C, h, w)`` twice to ``(N, groups * (2 reach + 1)^2, h, w)``; cells outside count as zero.
    """
    height, width = first.shape[-2:]
    span = 2 * reach + 1
    rows = first.unflatten(1, (groups, -1)).permute(0, 1, 3, 4, 2) / (first.shape[1] // groups)
    others = F.pad(second, (reach, reach, reach, reach)).unflatten(1, (groups, -1)).permute(0, 1, 3, 2, 4)
    bands = []
    for dy in range(span):
        # All pairs of a row by a matrix product; then skew it, so that column j holds the cell j - reach to the right.
        pairs = (rows @ others[:, :, dy : dy + height]).flatten(3)
        bands.append(F.pad(pairs, (0, width)).unflatten(3, (width, width + span))[..., :span])
    return torch.stack(bands, 2).permute(0, 1, 2, 5, 3, 4).flatten(1, 3)


def _load_strictly(net: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = [
        f"{k} {found.get(k, 'missing')}, not {expected.get(k, 'present')}"
        for k in sorted({*expected, *found})
        if expected.get(k) != found.get(k)
    ]
    if wrong:
        raise ValueError(f"net: the tensors of {path} must be those of {type(net).__name__}: {'; '.join(wrong)}")
    net.load_state_dict(weights)


ARCHITECTURES: dict[str, type[Any]] = {"compact": Compact}
