"""Quality of boundaries: mBA, boundary F and Boundary IoU.

Void (``ignore_index``) is left out everywhere: a void pixel is never scored, and a label change between a void pixel
and another one is no boundary, in the truth or in the prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from .checks import check_labels

# Offsets (rows, columns) to the neighbours that a pixel is compared with to find one-pixel-wide boundaries.
_EAST_SOUTH_SOUTHEAST = ((0, 1), (1, 0), (1, 1))
_BITS = 63  # classes in one int64


def ellipse_half_widths(radius: int) -> list[int]:
    """How far each row of the (2r+1, 2r+1) elliptical kernel of OpenCV reaches to either side of the centre column.

    ``cv2.getStructuringElement(MORPH_ELLIPSE, (2r+1, 2r+1))`` sets ``|dx| <= round(sqrt(r^2 - dy^2))`` in row ``dy``,
    with halves rounded to even as Python's ``round`` does.
    """
    return [round(math.sqrt(radius**2 - dy**2)) for dy in range(-radius, radius + 1)]


def disk_half_widths(radius: int) -> list[int]:
    """How far each row of the disk ``dx^2 + dy^2 <= r^2`` reaches to either side of the centre column."""
    return [math.isqrt(radius**2 - dy**2) for dy in range(-radius, radius + 1)]


def dilate(values: Tensor, half_widths: Sequence[int], combine: Callable[..., Tensor] = torch.maximum) -> Tensor:
    """Maximum of ``values`` (..., H, W), of any integer type or bool, over a footprint that is symmetric up and down.

    Row ``dy`` of the footprint covers ``|dx| <= half_widths[radius + dy]``. Pixels outside the image take no part.
    ``combine`` is another operation than the maximum, such as ``torch.bitwise_or``.
    """
    radius = len(half_widths) // 2
    rows = [values]  # rows[k]: combined over the 2k+1 pixels of a row
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
    """mBA of one image (CascadePSP, Cheng et al. 2020, section 4.1; multi-class form).

    For each of the 5 radii ``1 + int(((W + H) / 300 - 1) / 5 * i)`` the boundary region is the union over classes of
    the morphological gradient of the class's true mask with an elliptical kernel: the valid pixels that have another
    valid class inside the kernel. The score is the share of it that is labelled right, averaged over the radii.

    Args:
        prediction: (H, W) integer class ids.
        target: (H, W) integer class ids, ``ignore_index`` for void.

    Returns:
        A value in [0, 1]; NaN where no radius finds a boundary.
    """
    height, width = target.shape
    valid = target != ignore_index
    labels = target.to(torch.int32)
    lowest = torch.iinfo(torch.int32).min
    # The negated copy turns the minimum over the kernel into a maximum; void is lowest in both, so it never wins.
    both = torch.stack((labels, -labels)).masked_fill(~valid, lowest)
    right = prediction == target
    scores = []
    for step in range(5):
        radius = 1 + int(((width + height) / 300 - 1) / 5 * step)
        highest, negated_lowest = dilate(both, ellipse_half_widths(radius))
        region = valid & (highest != -negated_lowest)
        pixels = int(region.sum())
        if pixels:
            scores.append(int((region & right).sum()) / pixels)
    return sum(scores) / len(scores) if scores else math.nan


def class_boundaries(labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """One-pixel boundaries of every class as bits, so that one operation on integers serves 63 classes.

    A pixel is boundary of a class if it and its right, lower or lower-right neighbour are both valid and exactly one of
    the two has the class (the ``seg2bmap`` of DAVIS and GSCNN). So the image border makes none.

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
    """Pixels (K,) of the boundary of each of the classes (K,)."""
    planes = [plane[plane != 0] for plane in boundaries]  # few pixels are any boundary
    return torch.stack([(planes[c // _BITS] >> c % _BITS & 1).sum() for c in classes.tolist()])


def boundary_f_scores(
    prediction: Tensor, target: Tensor, num_classes: int, tolerances: Sequence[int], ignore_index: int = 255
) -> Tensor:
    """Boundary F-score of one image per tolerance and class (Perazzi et al. 2016, section 4; per class as in GSCNN).

    Precision is the share of the class's predicted boundary pixels within Euclidean distance ``t`` of a true one,
    recall the share of its true ones within ``t`` of a predicted one, and ``F = 2PR / (P + R)``, 0 if only one side has
    a boundary.

    Args:
        prediction: (H, W) integer class ids.
        target: (H, W) integer class ids, ``ignore_index`` for void.
        tolerances: in pixels.

    Returns:
        (len(tolerances), num_classes) float64 on the CPU; NaN for a class with a boundary on neither side.
    """
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
                _count(mine & dilate(others, disk, torch.bitwise_or), present)
                for mine, others in ((predicted, true), (true, predicted))
            ]
        )
        precision, recall = hits / sizes.clamp(min=1)
        f = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
        row[present] = f.masked_fill(sizes.sum(0) == 0, math.nan).cpu()
    return scores


def boundary_regions(labels: Tensor, valid: Tensor, distance: int) -> Tensor:
    """Where (H, W) bool a valid pixel is within ``distance`` of the contour of its own class's mask, inside the mask.

    As in the reference code of Boundary IoU: a valid pixel of another class, or the image's border, lies within that
    many pixels in both directions (3x3 erosions). Void takes no part.
    """
    lowest = torch.iinfo(torch.int32).min
    # The negated copy turns the minimum over the square into a maximum; void is lowest in both, so it never wins.
    both = torch.stack((labels.int(), -labels.int())).masked_fill(~valid, lowest)
    # What lies outside the image is of no class.
    framed = torch.nn.functional.pad(both, (1, 1, 1, 1), value=torch.iinfo(torch.int32).max)
    highest, negated_lowest = dilate(framed, [distance] * (2 * distance + 1))[:, 1:-1, 1:-1]
    return valid & (highest != -negated_lowest)


def boundary_overlap(
    prediction: Tensor, target: Tensor, num_classes: int, dilation_ratio: float, ignore_index: int = 255
) -> Tensor:
    """Intersection and union in pixels, (2, num_classes) int64 on the CPU, of one image's :func:`boundary_regions`.

    Boundary IoU (Cheng et al. 2021, equation 1) of a class is their ratio; the regions are ``dilation_ratio`` of the
    image's diagonal deep, at least 1 pixel.

    Args:
        prediction: (H, W) integer class ids.
        target: (H, W) integer class ids, ``ignore_index`` for void.
    """
    valid = target != ignore_index
    distance = max(1, round(dilation_ratio * math.hypot(*target.shape)))
    regions = [(labels, boundary_regions(labels, valid, distance)) for labels in (prediction, target)]
    sizes = [torch.bincount(labels[region].long(), minlength=num_classes) for labels, region in regions]
    (_, predicted), (_, true) = regions
    both = torch.bincount(target[predicted & true & (prediction == target)].long(), minlength=num_classes)
    return torch.stack((both, sum(sizes) - both)).cpu()


class BoundaryMetrics(Metric):
    """mBA, boundary F-scores and Boundary IoU of a data set; see ``SegmentationMetrics`` for arguments and names."""

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
        if any(tolerance < 0 for tolerance in tolerances):
            raise ValueError(f"tolerances must be at least 0 pixels, got {tuple(tolerances)}")
        if not 0 < dilation_ratio < 1:
            raise ValueError(f"dilation_ratio must be between 0 and 1, got {dilation_ratio}")
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.tolerances, self.dilation_ratio = tuple(tolerances), dilation_ratio
        self.add_state("boundary_accuracies", [], dist_reduce_fx="cat")  # (1,) float64 an image
        self.add_state("f_scores", [], dist_reduce_fx="cat")  # (1, tolerances, classes) float64 an image
        self.add_state("overlap", torch.zeros(2, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch of integer class ids (N, H, W); see ``SegmentationMetrics.update``."""
        check_labels(prediction, target, self.num_classes, self.ignore_index)
        options = {"num_classes": self.num_classes, "ignore_index": self.ignore_index}
        for predicted, true in zip(prediction, target, strict=True):
            accuracy = mean_boundary_accuracy(predicted, true, self.ignore_index)
            f_scores = boundary_f_scores(predicted, true, tolerances=self.tolerances, **options)
            overlap = boundary_overlap(predicted, true, dilation_ratio=self.dilation_ratio, **options)
            self.boundary_accuracies.append(torch.tensor([accuracy], dtype=torch.float64, device=self.device))
            self.f_scores.append(f_scores[None].to(self.device))
            self.overlap += overlap.to(self.device)

    def compute(self) -> dict[str, float]:
        """``mba``, ``boundary_f_{t}px`` and ``boundary_iou``; NaN where nothing defines one."""
        metrics = {"mba": float(_joined(self.boundary_accuracies, (0,)).nanmean())}
        f_scores = _joined(self.f_scores, (0, len(self.tolerances), self.num_classes)).nanmean(0).nanmean(1)
        metrics |= {f"boundary_f_{t}px": f for t, f in zip(self.tolerances, f_scores.tolist(), strict=True)}
        intersection, union = self.overlap.cpu().double()
        return metrics | {"boundary_iou": float((intersection / union).nanmean())}  # 0/0 = NaN for an absent class


def _joined(values: Tensor | list[Tensor], empty: tuple[int, ...]) -> Tensor:
    """A list state in one tensor on the CPU; torchmetrics has joined it already after a synchronisation."""
    return torch.cat([torch.empty(empty, dtype=torch.float64), *values]) if isinstance(values, list) else values.cpu()
