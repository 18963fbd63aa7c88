"""The spatial transformer (Jaderberg et al. 2015, arXiv 1506.02025), with homographies that can always be inverted."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import homography
from ..checks import check_maps, check_number, check_path, check_whole, shown
from ..functional import homography_warp
from .weights import make_with, read_weights, size_in, write_weights

# The last two of the eight coefficients are the perspectives.
KINDS = {"affine": 6, "homography": 8}


class SpatialTransformer(nn.Module):
    """Chooses a view of each image, by a homography that it learns from the loss of the layers behind it.

    ``nn.Sequential(SpatialTransformer(3), classifier)`` is all it takes. A small network looks at the image and gives
    ``theta = exp(a)``, which always has an inverse. ``|a|``, about the mean displacement of the image's corners, stays
    below ``max_displacement``. Untrained, it gives exactly the identity. Images may have any size. The paper makes the
    training pairs of its inverse-transformation network with a spatial transformer (section 3.4).

    Args:
        channels: number of channels of the images.
        kind: ``"affine"`` or ``"homography"``.
        max_displacement: bound of ``|a|``, in half images, at most 4.

    Raises:
        TypeError, ValueError: an argument is not one of these.

    Example:
        >>> images = torch.rand(2, 3, 64, 96)
        >>> iff.SpatialTransformer(3).theta(images)[0].detach()  # untrained: the identity
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """

    def __init__(self, channels: int, kind: str = "homography", max_displacement: float = 0.25) -> None:
        super().__init__()
        self.channels = check_whole(channels, "channels", 1)
        check_kind(kind)
        self.kind, self.max_displacement = kind, check_number(max_displacement, "max_displacement")
        if not 0 < self.max_displacement <= 4:  # homography.exp is accurate that far
            raise ValueError(f"max_displacement must be above 0 and at most 4 (half images), got {max_displacement}")
        self.localisation = small_network(self.channels, KINDS[kind])
        for parameter in self.localisation[-1].parameters():
            nn.init.zeros_(parameter)

    def algebra(self, x: Tensor) -> Tensor:
        """Lie-algebra coefficients ``a (N, 8)``, in half images, for ``x (N, C, H, W)``; float32 or x's wider dtype.

        Raises:
            TypeError, ValueError: x is not floating point or of another shape.
        """
        check_maps(x, "x", self.channels)
        raw = self.localisation(x).double()  # the square of a large float32 is infinite
        length = torch.linalg.vector_norm(F.pad(raw, (0, 1), value=1.0), dim=1, keepdim=True)  # sqrt(1 + |raw|^2)
        a = self.max_displacement * raw / length
        return F.pad(a, (0, 8 - a.shape[1])).to(torch.promote_types(x.dtype, torch.float32))

    def theta(self, x: Tensor) -> Tensor:
        """Homographies ``(N, 3, 3)`` of determinant 1, from points of the result to points of ``x (N, C, H, W)``."""
        return homography.exp(self.algebra(x))

    def forward(self, x: Tensor) -> Tensor:
        """The view ``(N, C, H, W)``: ``forward(x)(p) = x(theta p)``, and 0 where that point is outside the image."""
        return homography_warp(x, self.theta(x))

    def save(self, path: str | os.PathLike[str], **metadata: str) -> None:
        """Write the weights as safetensors, atomically, with what :meth:`from_file` needs to rebuild the module."""
        check_path(path, "path")
        arguments = {name: str(getattr(self, name)) for name in ("channels", "kind", "max_displacement")}
        write_weights(Path(path), self, {**arguments, **metadata})

    @staticmethod
    def from_file(path: str | os.PathLike[str]) -> SpatialTransformer:
        """The spatial transformer that :meth:`save` wrote, on the CPU, in float32.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a complete safetensors file (but a pickle, say), does not name the arguments, or its
                tensors do not fit.
        """
        check_path(path, "stn")
        path = Path(path)
        header, weights = read_weights(path, "stn")
        try:
            arguments = size_in(header, "channels"), header["kind"], float(header["max_displacement"])
            check_kind(arguments[1])
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"stn: {path} must hold channels, kind and max_displacement in its metadata, got {shown(header)}"
            ) from error
        return make_with(lambda: SpatialTransformer(*arguments), weights, path, "stn")

    def extra_repr(self) -> str:
        return f"channels={self.channels}, kind={self.kind!r}, max_displacement={self.max_displacement}"


def check_kind(kind: str) -> None:
    """Raise ValueError unless ``kind`` is one of ``KINDS``."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {shown(kind)}")


def small_network(channels: int, outputs: int) -> nn.Sequential:
    """A network from images ``(N, channels, H, W)`` of any size to ``(N, outputs)``, by features of 4 x 4 cells."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 7, stride=4, padding=3),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.GroupNorm(4, 16),
        nn.SiLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.GroupNorm(4, 32),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.SiLU(),
        nn.Linear(64, outputs),
    )
