"""Region metrics come from one confusion matrix: mIoU, pixel accuracy and the IoU of each class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix

from ...checks import check_ignore_index, check_whole, shown
from .checks import checked_labels


class RegionMetrics(Metric):
    """Accumulates the overlap of regions over a data set; ``SegmentationMetrics`` explains arguments and names.

    Args:
        absent: the IoU of a class that is in neither truth nor prediction; NaN leaves it out of the mean.
    """

    full_state_update = False
    confusion: Tensor

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        class_names: Sequence[str] | None = None,
        absent: float = math.nan,
    ) -> None:
        super().__init__(compute_with_cache=False)  # torchmetrics' cache would outlive a merge
        self.num_classes, self.ignore_index = (
            check_whole(num_classes, "num_classes", 1),
            check_ignore_index(ignore_index),
        )
        if not isinstance(class_names, (Sequence, type(None))):
            raise TypeError(f"class_names must be a list of names, got {shown(class_names)}")
        self.class_names = list(class_names) if class_names is not None else [str(i) for i in range(num_classes)]
        if twice := [name for name, count in Counter(self.class_names).items() if count > 1]:
            raise ValueError(f"class_names must differ, got {shown(twice[0])} more than once")
        if len(self.class_names) != num_classes:
            raise ValueError(f"class_names must name {num_classes} classes, got {len(self.class_names)}")
        self.absent = absent
        confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)  # [true, predicted]
        self.add_state("confusion", confusion, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch of integer class ids (N, H, W); see ``SegmentationMetrics.update``."""
        prediction, target = checked_labels(prediction, target, self.num_classes, self.ignore_index)
        confusion = multiclass_confusion_matrix(
            prediction, target, self.num_classes, ignore_index=self.ignore_index, validate_args=False
        )
        self.confusion += confusion.to(self.device)

    def compute(self) -> dict[str, float]:
        """Returns ``miou``, ``pixel_accuracy`` and ``iou/{name}`` for each class; NaN for one that nothing defines."""
        confusion = self.confusion.cpu()
        right = confusion.diagonal().double()
        union = confusion.sum(0) + confusion.sum(1) - right
        iou = torch.where(union > 0, right / union, self.absent if confusion.any() else math.nan)
        metrics = {"miou": float(iou.nanmean()), "pixel_accuracy": float(right.sum() / confusion.sum())}
        return metrics | {f"iou/{name}": value for name, value in zip(self.class_names, iou.tolist(), strict=True)}
