"""Labels are moved to where a prediction sees their boundary."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import functional, homography
from .checks import check_ignore_index, check_labels, check_maps, check_radius, check_same_device, readable
from .constants import constant
from .nets.frozen import WithFrozenNet, in_full_precision, nearest_multiples

_POINTS = 7  # in each direction, along half a tile, whose motion is integrated; between them it is bilinear
_STEPS = 2  # of the integration
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


class LabelAligner(WithFrozenNet):
    """Moves labels to where a prediction sees their boundary: for labels that were drawn, or projected, beside it.

    Predicted and true boundary are resized as in :class:`inverseform_fast.InverseFormLoss` and cut into tiles, each of
    which overlaps half of the next one. The frozen network reads a homography ``a`` off each.

    *Dead zone*: a reading is no better than the network's noise (``net.noise``: what it reads off predictions where
    nothing is displaced). So each is shrunk by ``max(0, 1 - (noise / |a|)^2)``, the positive-part James-Stein estimate.
    A reading below the noise becomes exactly 0, and a long one is kept nearly whole. A network without a noise figure
    has no dead zone, and says so when the aligner is made.

    *Left alone* are tiles whose labels have no boundary or in which the model sees none, readings beyond a quarter of
    a tile, which no network has learned, and images whose prediction is not finite.

    *Between tiles* the motion is blended without tearing. Readings are written in the image's coordinates and
    interpolated bilinearly between the tiles' centres. So every point has a velocity, which is continuous, and it flows
    along it for a unit of time, in small steps. A flow never folds: the Jacobian stays positive. A motion of the whole
    image that is one homography stays just that.

    Labels are then read to the nearest pixel. A pixel whose label would lie outside the image becomes void. Nothing
    here has a gradient.

    Args:
        net: ``"predictions"`` (the package's network that has learned from models' predictions), ``"compact"``, a path
            to a weight file, or an :class:`InverseTransformNet`, which is frozen. It is treated as in
            :class:`inverseform_fast.InverseFormLoss`.
        radius: radius of the boundaries in pixels.
        ignore_index: the label that marks void.

    Raises:
        TypeError, ValueError: an option is not one of these, or the weight file is not valid.
        FileNotFoundError: the weight file is missing.

    Example:
        >>> labels = torch.zeros(1, 224, 224, dtype=torch.uint8)
        >>> labels[:, 60:160, 50:170] = 1  # a square
        >>> logits = torch.stack((labels == 0, labels == 1), 1) * 20.0  # a model sees it where it is
        >>> displaced = labels.roll(8, -1)
        >>> net = iff.InverseTransformNet.compact()
        >>> net.noise = 3 / 112  # 3 px of a tile of 224
        >>> aligner = iff.LabelAligner(net)
        >>> torch.equal(aligner(logits, labels), labels)
        True
        >>> aligner.displacement(logits, displaced)[0, 0, 110, 110].round()  # along x, in the middle
        tensor(7.)
    """

    def __init__(
        self, net: str | os.PathLike[str] | nn.Module = "predictions", radius: int = 2, ignore_index: int = 255
    ) -> None:
        super().__init__(net)
        self.radius, self.ignore_index = check_radius(radius), check_ignore_index(ignore_index)
        if self.net.tile % 2:
            raise ValueError(f"net must have tiles of an even number of pixels, got {self.net.tile}")
        if self.net.noise is None:
            warnings.warn(
                "net has no noise figure, so the aligner has no dead zone: it moves labels by readings of any length",
                stacklevel=2,
            )

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
            boundary_logits: ``(N, 1, h', w')`` of a boundary head, which then alone decide; None derives the boundary
                from the segmentation (headless).

        Raises:
            TypeError, ValueError: wrong dtype or shape, or the labels' dtype cannot hold ``ignore_index``.
        """
        check_maps(segmentation_logits, "segmentation_logits")
        evidence, name = segmentation_logits, "segmentation_logits"
        if boundary_logits is not None:
            evidence, name = boundary_logits, "boundary_logits"
            check_maps(evidence, name, channels=1)
        check_labels(labels, batch=len(evidence))
        check_same_device("labels", labels, name, evidence)
        limits = torch.iinfo(labels.dtype)
        if not limits.min <= self.ignore_index <= limits.max:
            raise ValueError(
                f"labels must be of a dtype that holds ignore_index={self.ignore_index}, got {labels.dtype}"
            )
        with in_full_precision(labels):
            finite = evidence.isfinite().flatten(1).all(1)
            readings = self._readings(evidence, labels, headless=boundary_logits is None)
            readings = torch.where(finite[:, None, None, None], readings, 0)
            displacement = _flow(readings, (labels.shape[1], labels.shape[2]))
            moved = readings.any(-1)
            return Alignment(_read(labels, displacement, self.ignore_index), displacement, moved, finite)

    def _readings(self, evidence: Tensor, labels: Tensor, headless: bool) -> Tensor:
        """Coefficients ``(N, rows, columns, 8)`` of each tile, after the dead zone, in half tiles."""
        if headless:
            evidence = functional.soft_boundary_map(evidence, labels.shape[-2:], self.radius)
        target = functional.boundary_map(labels, self.radius, self.ignore_index)[:, None]
        net = self.net_for(evidence)
        size, half = nearest_multiples(labels, net.tile), net.tile // 2
        blocks = functional.extract_tiles(evidence, target, size, half, None if headless else "sigmoid")
        rows, columns = size[0] // half, size[1] // half
        tiles = [_overlapping(side.view(-1, rows, columns, half, half)) for side in blocks]
        a = net.algebra(*tiles)
        predicted, true = (side.flatten(1).amax(1) for side in tiles)
        squared = a.square().sum(1)
        known = (true > 0) & (predicted > _SEEN) & (squared < _LONGEST**2)
        kept = (1 - (net.noise or 0) ** 2 / squared.clamp(min=1e-12)).clamp(min=0)
        a = torch.where(known[:, None], kept[:, None] * a, 0)
        return a.view(len(labels), rows - 1, columns - 1, 8)

    def extra_repr(self) -> str:
        return f"net={type(self.net).__name__}, radius={self.radius}, ignore_index={self.ignore_index}"


def _overlapping(blocks: Tensor) -> Tensor:
    """Tiles ``(N * (rows - 1) * (columns - 1), 1, tile, tile)`` of 2 x 2 of the blocks ``(N, rows, columns, h, h)``."""
    half = blocks.shape[-1]
    maps = blocks.transpose(2, 3).flatten(3).flatten(1, 2)
    return maps.unfold(1, 2 * half, half).unfold(2, 2 * half, half).flatten(0, 2)[:, None]


def _flow(readings: Tensor, size: tuple[int, int]) -> Tensor:
    """Displacement ``(N, 2, H, W)`` in pixels by the coefficients ``(N, rows, columns, 8)`` of overlapping tiles."""
    n, rows, columns, _ = readings.shape
    height, width = size
    to_image = constant(_ToImage(rows, columns), readings.dtype, readings.device)
    motion = (to_image @ readings[..., None])[..., 0].movedim(-1, 1) / _STEPS
    motion = F.pad(motion, (1, 1, 1, 1), mode="replicate")  # from the outermost centres of tiles to the image's edges
    y, x = torch.meshgrid(_points(height, rows, readings), _points(width, columns, readings), indexing="ij")
    start = torch.stack((x, y), -1)
    points = start.expand(n, *start.shape)
    for _ in range(_STEPS):
        here = F.grid_sample(motion, points, padding_mode="border", align_corners=True)
        step = homography.exp(here.movedim(1, -1))
        moved = (step[..., :2] @ points[..., None])[..., 0] + step[..., 2]
        points = moved[..., :2] / moved[..., 2:]
    dx, dy = (points - start).unbind(-1)
    displacement = torch.stack((dx * (width / 2), dy * (height / 2)), 1)
    return F.interpolate(displacement, size=size, mode="bilinear", align_corners=True)


def _points(pixels: int, tiles: int, like: Tensor) -> Tensor:
    """Coordinates in [-1, 1] from the centre of the first to that of the last pixel, along so many tiles."""
    last = 1 - 1 / pixels
    return torch.linspace(-last, last, (tiles + 1) * _POINTS, dtype=like.dtype, device=like.device)


@dataclass(frozen=True)
class _ToImage:
    """Makes ``(rows, columns, 8, 8)``, which takes coefficients of the overlapping tiles to the image's coordinates."""

    rows: int
    columns: int

    def __call__(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        maps = torch.zeros(self.rows, self.columns, 3, 3, dtype=torch.float64)
        maps[..., 0, 0], maps[..., 1, 1], maps[..., 2, 2] = 2 / (self.columns + 1), 2 / (self.rows + 1), 1
        maps[..., 0, 2] = (torch.arange(self.columns) + 1) * 2 / (self.columns + 1) - 1
        maps[..., 1, 2] = ((torch.arange(self.rows) + 1) * 2 / (self.rows + 1) - 1)[:, None]
        return homography.adjoint(maps).to(device, dtype)


def _read(labels: Tensor, displacement: Tensor, void: int) -> Tensor:
    """The label of each pixel's displaced place, to the nearest pixel; ``void`` outside the image."""
    height, width = labels.shape[-2:]
    x = (displacement[:, 0] + torch.arange(width, device=labels.device)).round().long()
    y = (displacement[:, 1] + torch.arange(height, device=labels.device)[:, None]).round().long()
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    places = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    read = labels.flatten(1).gather(1, places.flatten(1)).view_as(labels)
    return read.masked_fill(outside, void)
