"""The base of the inverse-transformation networks, which estimate the homography of two boundary tiles (paper, 3.2)."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from pathlib import Path

from torch import Tensor, nn

from .. import homography
from ..checks import check_path, shown
from .registry import ARCHITECTURES
from .weights import WEIGHTS, make_with, read_release, read_weights, size_in, write_weights


class InverseTransformNet(nn.Module, ABC):
    """Base of the networks; ``InverseTransformNet.compact()`` and ``.from_file(path)`` make one.

    Attributes:
        tile: edge in pixels of the tiles that the network reads.
        sizes: names of the attributes, all integers, that the network is constructed from.
        antisymmetric: whether swapped maps give exactly the inverse, for any weights.
        noise: ``|a|`` in half tiles that the network reads off a model's predictions where nothing is displaced;
            ``inverseform-fast tune-net`` measures it. None: nobody measured it.

    Example:
        >>> net = iff.InverseTransformNet.compact()
        >>> predicted, target = torch.rand(2, 1, 224, 224), torch.rand(2, 1, 224, 224)
        >>> net.pair(predicted, target).shape
        torch.Size([2, 3, 3])
    """

    tile: int
    architecture: str
    sizes: tuple[str, ...] = ("tile",)
    antisymmetric: bool = False
    noise: float | None = None

    @abstractmethod
    def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Lie-algebra coefficients ``(N, 8)``, in half tiles, of the homography between two batches of tiles.

        Args:
            predicted, target: ``(N, 1, tile, tile)`` boundary probabilities.
        """

    def estimates(self, predicted: Tensor, target: Tensor) -> list[Tensor]:
        """The coefficients after each refinement, the final ones last; training minimises the error of them all."""
        return [self.algebra(predicted, target)]

    def pair(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Homography ``theta_hat (N, 3, 3)``: ``predicted(p) = target(theta_hat p)``; identity for identical maps."""
        return homography.exp(self.algebra(predicted, target))

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        return self.pair(predicted, target)

    def save(self, path: str | os.PathLike[str], **metadata: str) -> None:
        """Write the weights as safetensors, atomically, with what :meth:`from_file` needs to rebuild the network.

        Raises:
            TypeError: ``path`` is no path, or a value of ``metadata`` is no text.
        """
        check_path(path, "path")
        sizes = {name: str(getattr(self, name)) for name in self.sizes}
        noise = {} if self.noise is None else {"noise": repr(self.noise)}
        write_weights(Path(path), self, {"architecture": self.architecture, **sizes, **noise, **metadata})

    @staticmethod
    def compact() -> InverseTransformNet:
        """The default network with the weights shipped in the package."""
        return InverseTransformNet.from_file(WEIGHTS / "compact.safetensors")

    @staticmethod
    def dense(tile: int = 224, outputs: int = 8) -> InverseTransformNet:
        """The paper's network, untrained; see :class:`inverseform_fast.nets.paper.Dense`."""
        return ARCHITECTURES["dense"](tile, outputs)

    @staticmethod
    def aet(tile: int = 224) -> InverseTransformNet:
        """The convolutional siamese network of the paper's Table 5, untrained; see :class:`.paper.Aet`."""
        return ARCHITECTURES["aet"](tile)

    @staticmethod
    def from_release(path: str | os.PathLike[str]) -> InverseTransformNet:
        """The network of the authors' public release, ``distance_measures_regressor.pth``, on the CPU, in float32.

        The file must hold a state dict of ``fc.0``, ``fc.2`` and ``fc.4`` (100352 -> 1000 -> 32 -> 4, for tiles of 224
        pixels); it may lie under ``"state_dict"`` or come from ``nn.DataParallel``. The authors call the 4 outputs
        normalized shifts and scales (https://github.com/Qualcomm-AI-research/InverseForm/issues/1) and minimise their
        norm, on maps of 672 x 1344. The outputs are read as in :class:`inverseform_fast.nets.paper.Dense`. So
        ``InverseFormLoss(net=..., distance="log", resize=(672, 1344))`` is that norm, whatever their order.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, it holds anything but tensors (code, say, which is not run), or a tensor is
                missing, superfluous or of another shape.
        """
        check_path(path, "release")
        path = Path(path)
        return make_with(lambda: ARCHITECTURES["dense"](outputs=4), read_release(path), path, "release")

    @staticmethod
    def from_file(path: str | os.PathLike[str]) -> InverseTransformNet:
        """The network that :meth:`save` wrote, on the CPU, in float32.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a complete safetensors file (but a pickle, say), names no known architecture, its
                noise is no positive number, or its tensors do not fit or are not finite.
        """
        check_path(path, "net")
        path = Path(path)
        header, weights = read_weights(path, "net")
        try:
            kind = ARCHITECTURES[header["architecture"]]
            sizes = {name: size_in(header, name) for name in kind.sizes}
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"net: {path} must name an architecture ({', '.join(ARCHITECTURES)}) and its sizes in its metadata, "
                f"got {shown(header)}"
            ) from error
        net = make_with(lambda: kind(**sizes), weights, path, "net")
        net.noise = _noise(header["noise"], path) if "noise" in header else None
        return net


def _noise(text: str, path: Path) -> float:
    try:
        noise = float(text)
    except ValueError:
        noise = math.nan
    if not 0 < noise < math.inf:
        raise ValueError(f"net: the noise of {path} must be a positive number of half tiles, got {text!r}")
    return noise
