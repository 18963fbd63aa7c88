"""Labels are moved to where a prediction sees their boundary."""

from __future__ import annotations

import os
import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import functional, homography
from .checks import (
    check_class_ids,
    check_holds,
    check_ignore_index,
    check_labels,
    check_maps,
    check_radius,
    check_same_device,
    readable,
)
from .constants import constant
from .nets.frozen import WithFrozenNet, in_full_precision, nearest_multiples
from .tiling import tiles_to_image

_LONGEST = 0.5  # half tiles: a longer reading is no measurement, for the networks learn half of this at most
_SEEN = 0.1  # if no boundary probability of a tile is above this, the model sees no boundary in it


class Alignment(NamedTuple):
    """Labels that were moved, and how far.

    Attributes:
        labels: ``(N, H, W)`` of the dtype that was given.
        displacement: ``(N, 2, H, W)`` float32, (x, y) in pixels: where a pixel's label was read, relative to the pixel.
        moved: ``(N, rows, columns)`` bool: the tiles that moved; each overlaps half of the next one.
        finite: ``(N,)`` bool: False where a prediction holds NaN or infinity, so that its labels were left alone.

    Example:
        >>> alignment = iff.LabelAligner().align(torch.zeros(1, 2, 56, 56), torch.zeros(1, 224, 224, dtype=torch.uint8))
        >>> alignment.moved.any(), alignment.displacement.shape  # nothing moves, for there is no boundary
        (tensor(False), torch.Size([1, 2, 224, 224]))
    """

    labels: Tensor
    displacement: Tensor
    moved: Tensor
    finite: Tensor


class LabelAligner(nn.Module):
    """Moves labels to where a prediction sees them: for labels that were drawn, or projected, beside the objects.

    Labels are cut into tiles of about 224 pixels, each of which overlaps half of the next one. A homography ``a`` is
    read off each: the one at which the tile's labels are most likely, by the predicted probabilities of their classes.
    Nothing has to be trained or tuned for it. With ``net``, a frozen inverse-transformation network reads it off the
    predicted and the true boundary instead. That is the better the sharper the prediction is, and worse than the
    likelihood on those of real models (docs/measured/displaced.md).

    *Dead zone*: each reading brings its own noise, which follows from how the tile's parts contradict each other. A
    reading whose ``|a|^2`` is not above three times its noise becomes 0, so exact labels stay. A network's reading is
    shrunk by ``max(0, 1 - (net.noise / |a|)^2)``, the positive-part James-Stein estimate; without a noise figure, which
    ``tune-net`` measures, there is no dead zone, and a warning says so.

    *Left alone* are tiles whose labels are of one class or in which the model sees no boundary, readings beyond a
    quarter of a tile, and images whose prediction is not finite.

    *Between tiles* the motion is blended without tearing. Readings are written in the image's coordinates and
    interpolated bilinearly between the tiles' centres. So every point has a velocity, which is continuous, and it flows
    along it for a unit of time, in small steps. A flow never folds: the Jacobian stays positive. A motion of the whole
    image that is one homography stays just that.

    Labels are then read to the nearest pixel. A pixel whose label would lie outside the image becomes void. Nothing
    here has a gradient.

    Args:
        net: None, ``"predictions"``, ``"compact"``, a path to a weight file, or an :class:`InverseTransformNet`, which
            is frozen. It is treated as in :class:`inverseform_fast.InverseFormLoss`.
        radius: radius of the boundaries in pixels, where boundaries are compared.
        ignore_index: the label that marks void.

    Raises:
        TypeError, ValueError: an option is not one of these, or the weight file is not valid.
        FileNotFoundError: the weight file is missing.

    Example:
        >>> labels = torch.zeros(1, 224, 224, dtype=torch.uint8)
        >>> labels[:, 60:160, 50:170] = 1  # a square
        >>> logits = torch.stack((labels == 0, labels == 1), 1) * 20.0  # a model sees it where it is
        >>> displaced = labels.roll(8, -1)
        >>> aligner = iff.LabelAligner()
        >>> torch.equal(aligner(logits, labels), labels)
        True
        >>> aligner.displacement(logits, displaced)[0, 0, 110, 110].round()  # along x, in the middle
        tensor(7.)
    """

    def __init__(
        self, net: str | os.PathLike[str] | nn.Module | None = None, radius: int = 2, ignore_index: int = 255
    ) -> None:
        super().__init__()
        self.radius, self.ignore_index = check_radius(radius), check_ignore_index(ignore_index)
        self.reader = None if net is None else _NetReader(net)

    def forward(self, segmentation_logits: Tensor, labels: Tensor, boundary_logits: Tensor | None = None) -> Tensor:
        """The labels ``(N, H, W)``, moved; see :meth:`align` for arguments and errors.

        On a CPU, a warning tells of predictions that are not finite. On a GPU it would have to wait for the device;
        :meth:`align` tells of them there.
        """
        result = self.align(segmentation_logits, labels, boundary_logits)
        if readable(labels) and not result.finite.all():
            left = int((~result.finite).sum())
            warnings.warn(f"{left} of {len(labels)} predictions are not finite; their labels stay", stacklevel=2)
        return result.labels

    def displacement(
        self, segmentation_logits: Tensor, labels: Tensor, boundary_logits: Tensor | None = None
    ) -> Tensor:
        """Where a pixel's label is read, relative to the pixel: ``(N, 2, H, W)``, (x, y) in pixels.

        See :meth:`align` for arguments and errors.
        """
        return self.align(segmentation_logits, labels, boundary_logits).displacement

    @torch.no_grad()
    def align(self, segmentation_logits: Tensor, labels: Tensor, boundary_logits: Tensor | None = None) -> Alignment:
        """The labels, moved, and how far.

        Args:
            segmentation_logits: ``(N, C, h, w)`` of any resolution.
            labels: ``(N, H, W)`` class ids, uint8 or int8 to int64.
            boundary_logits: ``(N, 1, h', w')`` of a boundary head, which then alone decide. Without a network the
                classes tell more: leave it out.

        Raises:
            TypeError, ValueError: wrong dtype or shape; the labels' dtype cannot hold ``ignore_index``; or, where the
                classes decide and on a CPU, a class id without a channel.
        """
        check_maps(segmentation_logits, "segmentation_logits")
        evidence, name = segmentation_logits, "segmentation_logits"
        if boundary_logits is not None:
            evidence, name = boundary_logits, "boundary_logits"
            check_maps(evidence, name, channels=1)
        check_labels(labels, batch=len(evidence))
        check_same_device("labels", labels, name, evidence)
        check_holds(labels, self.ignore_index)
        if self.reader is None and boundary_logits is None and readable(labels):
            check_class_ids(labels, segmentation_logits.shape[1], self.ignore_index)
        with in_full_precision(labels):
            finite = evidence.amax(1).isfinite().flatten(1).all(1)  # a class may be impossible (-inf), but not all
            known = finite[:, None, None, None]
            readings = self._read(torch.where(known, evidence, 0), labels, boundary_logits is None)
            known = known & (readings.square().sum(-1, keepdim=True) < _LONGEST**2)
            readings = torch.where(known, readings, 0)
            to_image = constant(_adjoints, readings.dtype, readings.device, *readings.shape[1:3])
            motion = (to_image @ readings[..., None])[..., 0]
            moved, displacement = functional.move_labels(motion, labels, self.ignore_index)
            return Alignment(moved, displacement, readings.any(-1), finite)

    def _read(self, evidence: Tensor, labels: Tensor, headless: bool) -> Tensor:
        """Coefficients ``(N, rows, columns, 8)`` by the finite logits of classes (headless) or of the boundary."""
        if self.reader is None and headless:
            return functional.register_labels(evidence, labels, self.ignore_index)
        target = functional.boundary_map(labels, self.radius, self.ignore_index)
        if self.reader is None:  # the boundary and what lies beside it are two classes
            return functional.register_labels(torch.cat((torch.zeros_like(evidence), evidence), 1), target, 255)
        if headless:
            probability = functional.soft_boundary_map(evidence, labels.shape[-2:], self.radius)
        else:
            probability = evidence.float().sigmoid()
        readings: Tensor = self.reader(probability, target[:, None])
        return readings

    def extra_repr(self) -> str:
        return f"radius={self.radius}, ignore_index={self.ignore_index}"


class _NetReader(WithFrozenNet):
    """Reads tiles by a frozen network.

    A reading is no better than ``net.noise``, so it is shrunk by ``max(0, 1 - (noise / |a|)^2)``, the positive-part
    James-Stein estimate.
    """

    def __init__(self, net: str | os.PathLike[str] | nn.Module) -> None:
        super().__init__(net)
        if self.net.tile % 2:
            raise ValueError(f"net must have tiles of an even number of pixels, got {self.net.tile}")
        if self.net.noise is None:
            warnings.warn(
                "net has no noise figure, so the aligner has no dead zone: it moves labels by readings of any length",
                stacklevel=3,
            )

    def forward(self, probability: Tensor, target: Tensor) -> Tensor:
        """Coefficients ``(N, rows, columns, 8)``, by a boundary's probability and the target of extract_tiles."""
        net = self.net_for(probability)
        size, half = nearest_multiples(target, net.tile), net.tile // 2
        blocks = functional.extract_tiles(probability, target, size, half, None)
        rows, columns = size[0] // half, size[1] // half
        tiles = [_overlapping(side.view(-1, rows, columns, half, half)) for side in blocks]
        a = net.algebra(*tiles)
        predicted, true = (side.flatten(1).amax(1) for side in tiles)
        squared = a.square().sum(1)
        known = (true > 0) & (predicted > _SEEN)
        kept = (1 - (net.noise or 0) ** 2 / squared.clamp(min=1e-12)).clamp(min=0)
        return torch.where(known[:, None], kept[:, None] * a, 0).view(len(target), rows - 1, columns - 1, 8)


def _overlapping(blocks: Tensor) -> Tensor:
    """Tiles ``(N * (rows - 1) * (columns - 1), 1, tile, tile)`` of 2 x 2 of the blocks ``(N, rows, columns, h, h)``."""
    half = blocks.shape[-1]
    maps = blocks.transpose(2, 3).flatten(3).flatten(1, 2)
    return maps.unfold(1, 2 * half, half).unfold(2, 2 * half, half).flatten(0, 2)[:, None]


def _adjoints(dtype: torch.dtype, device: torch.device, rows: int, columns: int) -> Tensor:
    """``(rows, columns, 8, 8)``: takes coefficients of tiles to the image's coordinates."""
    maps = tiles_to_image(torch.float64, torch.device("cpu"), rows, columns)
    return homography.adjoint(maps).view(rows, columns, 8, 8).to(device, dtype)
