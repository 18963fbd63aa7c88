"""mBA, boundary F and Boundary IoU measure the quality of boundaries.

Void (``ignore_index``) is left out everywhere: a void pixel is never scored, and where a void pixel meets another one,
neither the truth nor the prediction has a boundary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ...checks import check_ignore_index, check_whole, shown
from .checks import checked_labels

# Comparing each pixel with the neighbours at these offsets (rows, columns) finds one-pixel-wide boundaries.
_EAST_SOUTH_SOUTHEAST = ((0, 1), (1, 0), (1, 1))
_BITS = 63  # classes that one int64 holds


def ellipse_half_widths(radius: int) -> list[int]:
    """Returns how far OpenCV's (2r+1, 2r+1) elliptical kernel reaches to either side of its centre, for each row.

    ``cv2.getStructuringElement(MORPH_ELLIPSE, (2r+1, 2r+1))`` sets ``|dx| <= round(sqrt(r^2 - dy^2))`` in row ``dy``,
    with halves rounded to even as Python's ``round`` does.
    """
    return [round(math.sqrt(radius**2 - dy**2)) for dy in range(-radius, radius + 1)]


def disk_half_widths(radius: int) -> list[int]:
    """Returns how far the disk ``dx^2 + dy^2 <= r^2`` reaches to either side of its centre, for each row."""
    return [math.isqrt(radius**2 - dy**2) for dy in range(-radius, radius + 1)]


def dilate(values: Tensor, half_widths: Sequence[int], combine: Callable[..., Tensor] = torch.maximum) -> Tensor:
    """Takes the maximum of ``values`` over a footprint around each pixel; pixels outside the image do not count.

    Args:
        values: (..., H, W) of any integer type or bool.
        half_widths: 2 radius + 1 numbers, the same from below as from above: row ``dy`` of the footprint covers
            ``|dx| <= half_widths[radius + dy]``.
        combine: an operation in place of the maximum, such as ``torch.bitwise_or``.

    Returns:
        A tensor like ``values``.
    """
    radius = len(half_widths) // 2
    rows = [values]  # rows[k] combines the 2k + 1 pixels around each one in its row
    for k in range(1, max(half_widths) + 1):
        row = rows[-1].clone()
        combine(row[..., k:], values[..., :-k], out=row[..., k:])
        combine(row[..., :-k], values[..., k:], out=row[..., :-k])
        rows.append(row)
    result = rows[half_widths[radius]].clone()
    for dy in range(1, radius + 1):
        row = rows[half_widths[radius + dy]]
        combine(result[..., dy:, :], row[..., :-dy, :], out=result[..., dy:, :])
        combine(result[..., :-dy, :], row[..., dy:, :], out=result[..., :-dy, :])
    return result


def mean_boundary_accuracy(prediction: Tensor, target: Tensor, ignore_index: int = 255) -> float:
    """Computes the mBA of one image (CascadePSP, Cheng et al. 2020, section 4.1) in its multi-class form.

    There are 5 radii, ``1 + int(((W + H) / 300 - 1) / 5 * i)``. For each, the boundary region is the union over classes
    of the morphological gradient of the class's true mask with an elliptical kernel: the valid pixels that have another
    valid class inside the kernel. The score is the share of the region that is right, averaged over the radii.

    Args:
        prediction: (H, W) integer class ids.
        target: (H, W) integer class ids, ``ignore_index`` for void.

    Returns:
        A value in [0, 1]; NaN if no radius finds a boundary.
    """
    prediction, target = prediction.long(), target.long()  # narrow dtypes cannot hold every ignore_index
    height, width = target.shape
    valid = target != ignore_index
    labels = target.to(torch.int32)
    lowest = torch.iinfo(torch.int32).min
    # The negated copy turns the minimum over the kernel into a maximum; void is lowest in both, so it never wins.
    signed = torch.stack((labels, -labels)).masked_fill(~valid, lowest)
    right = prediction == target
    scores = []
    for step in range(5):
        radius = 1 + int(((width + height) / 300 - 1) / 5 * step)
        highest, negated_lowest = dilate(signed, ellipse_half_widths(radius))
        region = valid & (highest != -negated_lowest)
        pixels = int(region.sum())
        if pixels:
            scores.append(int((region & right).sum()) / pixels)
    return sum(scores) / len(scores) if scores else math.nan


def class_boundaries(labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Finds one-pixel boundaries of every class, as bits, so that one operation on integers serves 63 classes.

    A pixel is boundary of a class if it and its right, lower or lower-right neighbour are both valid and exactly one of
    the two has the class (this is ``seg2bmap`` of DAVIS and GSCNN). So the image's border is no boundary.

    Args:
        labels: (H, W) integer class ids.
        valid: (H, W) bool.

    Returns:
        (ceil(num_classes / 63), H, W) int64: class c is bit c % 63 of plane c // 63.
    """
    height, width = labels.shape
    first = torch.arange(0, num_classes, _BITS, device=labels.device)[:, None, None]
    place = labels.long() - first
    bits = (1 << place.clamp(0, _BITS - 1)).masked_fill((place < 0) | (place >= _BITS), 0)
    boundaries = torch.zeros_like(bits)
    for down, right in _EAST_SOUTH_SOUTHEAST:
        here = (..., slice(None, height - down), slice(None, width - right))
        there = (..., slice(down, None), slice(right, None))
        boundaries[here] |= (bits[here] ^ bits[there]) * (valid[here] & valid[there])
    return boundaries


def _count(boundaries: Tensor, classes: Tensor) -> Tensor:
    """Counts the boundary pixels (K,) of each of the classes (K,)."""
    planes = [plane[plane != 0] for plane in boundaries]  # few pixels are any boundary
    return torch.stack([(planes[c // _BITS] >> c % _BITS & 1).sum() for c in classes.tolist()])


def boundary_f_scores(
    prediction: Tensor, target: Tensor, num_classes: int, tolerances: Sequence[int], ignore_index: int = 255
) -> Tensor:
    """Computes the boundary F-score (Perazzi et al. 2016, section 4) of one image for each class, as GSCNN does.

    Precision P is the share of the class's predicted boundary pixels within Euclidean distance ``t`` of a true one,
    recall R is the share of its true ones within ``t`` of a predicted one, and ``F = 2PR / (P + R)``. F is 0 if only
    one side has a boundary.

    Args:
        prediction: (H, W) integer class ids.
        target: (H, W) integer class ids, ``ignore_index`` for void.
        tolerances: in pixels.

    Returns:
        (len(tolerances), num_classes) float64 on the CPU; NaN for a class with a boundary on neither side.
    """
    prediction, target = prediction.long(), target.long()
    valid = target != ignore_index
    scores = torch.full((len(tolerances), num_classes), math.nan, dtype=torch.float64)
    present = torch.unique(torch.cat((prediction[valid], target[valid]))).long().cpu()
    if not len(present):
        return scores
    predicted, true = (class_boundaries(labels, valid, num_classes) for labels in (prediction, target))
    sizes = torch.stack((_count(predicted, present), _count(true, present))).double()
    for row, tolerance in zip(scores, tolerances, strict=True):
        disk = disk_half_widths(tolerance)
        hits = torch.stack(
            [
                _count(boundaries & dilate(counterparts, disk, torch.bitwise_or), present)
                for boundaries, counterparts in ((predicted, true), (true, predicted))
            ]
        )
        precision, recall = hits / sizes.clamp(min=1)
        f = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
        row[present] = f.masked_fill(sizes.sum(0) == 0, math.nan).cpu()
    return scores


def boundary_regions(labels: Tensor, valid: Tensor, distance: int) -> Tensor:
    """Finds the valid pixels (H, W) bool that lie within ``distance`` pixels of the contour of their own class's mask.

    As in the reference code of Boundary IoU, which erodes by 3x3 squares, the distance is the larger one of rows and
    columns, and both a valid pixel of another class and the image's border make a contour. Void makes none.
    """
    lowest = torch.iinfo(torch.int32).min
    # The negated copy turns the minimum over the square into a maximum; void is lowest in both, so it never wins.
    signed = torch.stack((labels.int(), -labels.int())).masked_fill(~valid, lowest)
    # The frame differs from every class, so the image's border makes a contour.
    framed = torch.nn.functional.pad(signed, (1, 1, 1, 1), value=torch.iinfo(torch.int32).max)
    highest, negated_lowest = dilate(framed, [distance] * (2 * distance + 1))[:, 1:-1, 1:-1]
    return valid & (highest != -negated_lowest)


def boundary_overlap(
    prediction: Tensor, target: Tensor, num_classes: int, dilation_ratio: float, ignore_index: int = 255
) -> Tensor:
    """Counts the intersection and the union of one image's predicted and true :func:`boundary_regions`, for each class.

    Their ratio is the Boundary IoU of the class (Cheng et al. 2021, equation 1).

    Args:
        prediction: (H, W) integer class ids.
        target: (H, W) integer class ids, ``ignore_index`` for void.
        dilation_ratio: depth of the regions as a share of the image's diagonal; they are at least 1 pixel deep.

    Returns:
        (2, num_classes) int64 on the CPU: pixels of the intersections, and of the unions.
    """
    prediction, target = prediction.long(), target.long()
    valid = target != ignore_index
    distance = max(1, round(dilation_ratio * math.hypot(*target.shape)))
    regions = [(labels, boundary_regions(labels, valid, distance)) for labels in (prediction, target)]
    sizes = [torch.bincount(labels[region].long(), minlength=num_classes) for labels, region in regions]
    (_, predicted), (_, true) = regions
    intersection = torch.bincount(target[predicted & true & (prediction == target)].long(), minlength=num_classes)
    return torch.stack((intersection, sum(sizes) - intersection)).cpu()


class BoundaryMetrics(Metric):
    """Accumulates the boundary metrics over a data set; ``SegmentationMetrics`` explains arguments and names."""

    full_state_update = False
    boundary_accuracies: list[Tensor]
    f_scores: list[Tensor]
    overlap: Tensor

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        tolerances: Sequence[int] = (1, 3, 5),
        dilation_ratio: float = 0.02,
    ) -> None:
        super().__init__(compute_with_cache=False)  # torchmetrics' cache would outlive a merge
        if not isinstance(tolerances, (list, tuple)):
            raise TypeError(f"tolerances must be a list of numbers of pixels, got {shown(tolerances)}")
        self.tolerances = tuple(check_whole(tolerance, "tolerances", 0, " of pixels") for tolerance in tolerances)
        if not isinstance(dilation_ratio, (int, float)) or not 0 < dilation_ratio < 1:
            raise ValueError(f"dilation_ratio must be between 0 and 1, got {shown(dilation_ratio)}")
        self.num_classes, self.ignore_index = (
            check_whole(num_classes, "num_classes", 1),
            check_ignore_index(ignore_index),
        )
        self.dilation_ratio = dilation_ratio
        self.add_state("boundary_accuracies", [], dist_reduce_fx="cat")  # (1,) float64 for each image
        self.add_state("f_scores", [], dist_reduce_fx="cat")  # (1, tolerances, classes) float64 each
        self.add_state("overlap", torch.zeros(2, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch of integer class ids (N, H, W); see ``SegmentationMetrics.update``."""
        prediction, target = checked_labels(prediction, target, self.num_classes, self.ignore_index)
        options = {"num_classes": self.num_classes, "ignore_index": self.ignore_index}
        for predicted, true in zip(prediction, target, strict=True):
            accuracy = mean_boundary_accuracy(predicted, true, self.ignore_index)
            f_scores = boundary_f_scores(predicted, true, tolerances=self.tolerances, **options)
            overlap = boundary_overlap(predicted, true, dilation_ratio=self.dilation_ratio, **options)
            self.boundary_accuracies.append(torch.tensor([accuracy], dtype=torch.float64, device=self.device))
            self.f_scores.append(f_scores[None].to(self.device))
            self.overlap += overlap.to(self.device)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Merges the states of all processes; torchmetrics' own empty list is of another shape and dtype."""
        self.boundary_accuracies = [_joined(self.boundary_accuracies, (0,)).to(self.device)]
        self.f_scores = [_joined(self.f_scores, (0, len(self.tolerances), self.num_classes)).to(self.device)]
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, float]:
        """Returns ``mba``, ``boundary_f_{t}px`` and ``boundary_iou``; NaN for one that nothing defines."""
        metrics = {"mba": float(_joined(self.boundary_accuracies, (0,)).nanmean())}
        f_scores = _joined(self.f_scores, (0, len(self.tolerances), self.num_classes)).nanmean(0).nanmean(1)
        metrics |= {f"boundary_f_{t}px": f for t, f in zip(self.tolerances, f_scores.tolist(), strict=True)}
        intersection, union = self.overlap.cpu().double()
        return metrics | {"boundary_iou": float((intersection / union).nanmean())}  # 0/0 = NaN for an absent class


def _joined(values: Tensor | list[Tensor], empty: tuple[int, ...]) -> Tensor:
    """Joins a list state into one tensor on the CPU; after a synchronization, torchmetrics has joined it already."""
    return torch.cat([torch.empty(empty, dtype=torch.float64), *values]) if isinstance(values, list) else values.cpu()
