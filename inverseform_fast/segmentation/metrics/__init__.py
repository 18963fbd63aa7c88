"""The metrics are torchmetrics whose states are tensors, so they merge, synchronize across processes and pickle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.wrappers.abstract import WrapperMetric

from .boundary import BoundaryMetrics
from .edges import EdgeMetrics
from .geometry import DepthMetrics, NormalMetrics
from .multitask import delta_m
from .regions import RegionMetrics
from .saliency import SaliencyMetrics

__all__ = [
    "BoundaryMetrics",
    "DepthMetrics",
    "EdgeMetrics",
    "NormalMetrics",
    "RegionMetrics",
    "SaliencyMetrics",
    "SegmentationMetrics",
    "delta_m",
]


class SegmentationMetrics(WrapperMetric):
    """Accumulates the metrics of a data set: :class:`RegionMetrics` and :class:`BoundaryMetrics`, each usable alone.

    ``compute`` returns these metrics, each in [0, 1], and NaN for one that nothing defines:

    - ``miou``: mean over classes of the IoU from one confusion matrix over all valid pixels (torchmetrics'
      ``MulticlassJaccardIndex``). A class that is in neither truth nor prediction is left out of the mean.
    - ``pixel_accuracy``: share of all valid pixels whose predicted class is right.
    - ``mba``: :func:`~.boundary.mean_boundary_accuracy`, averaged over the images that have a boundary.
    - ``boundary_f_{t}px`` for each tolerance ``t``: :func:`~.boundary.boundary_f_scores`, averaged over the images in
      which the class has a boundary (true or predicted), then over the classes that have such an image.
    - ``boundary_iou``: :func:`~.boundary.boundary_overlap` summed over the images, then intersection / union averaged
      over the classes.
    - ``iou/{name}``: the IoU of each class.

    Args:
        num_classes: number of classes; class ids are 0 .. num_classes - 1.
        ignore_index: label of void.
        tolerances: tolerances of the boundary F-score, in pixels.
        class_names: names for the ``iou/`` entries; the class ids if not given.
        dilation_ratio: depth of Boundary IoU's regions as a share of the image's diagonal; 0.02 is the paper's.

    Raises:
        ValueError: a tolerance is negative, the ratio is outside (0, 1), or the number of names is not that of classes.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        tolerances: Sequence[int] = (1, 3, 5),
        class_names: Sequence[str] | None = None,
        dilation_ratio: float = 0.02,
    ) -> None:
        super().__init__()
        self.regions = RegionMetrics(num_classes, ignore_index, class_names)
        self.boundaries = BoundaryMetrics(num_classes, ignore_index, tolerances, dilation_ratio)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch.

        Args:
            prediction: (N, H, W) integer class ids in 0 .. num_classes - 1.
            target: (N, H, W) integer class ids, ``ignore_index`` for void.

        Raises:
            TypeError: the labels are no integers.
            ValueError: a shape is wrong, or a class id is out of range.
        """
        self.regions.update(prediction, target)
        self.boundaries.update(prediction, target)

    def compute(self) -> dict[str, float]:
        """Returns the metrics of all batches so far, by the names that the class lists."""
        return _classes_last(self.regions.compute() | self.boundaries.compute())

    def forward(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Adds a batch as ``update`` does, and returns the metrics of this batch alone."""
        return _classes_last(self.regions(prediction, target) | self.boundaries(prediction, target))

    def reset(self) -> None:
        """Forgets all batches."""
        super().reset()
        self.regions.reset()
        self.boundaries.reset()

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Adds the batches of another ``SegmentationMetrics``.

        Raises:
            TypeError: ``incoming_state`` is another kind of metric.
        """
        if not isinstance(incoming_state, SegmentationMetrics):
            raise TypeError(f"incoming_state must be a SegmentationMetrics, got {type(incoming_state).__name__}")
        self.regions.merge_state(incoming_state.regions)
        self.boundaries.merge_state(incoming_state.boundaries)


def _classes_last(metrics: dict[str, float]) -> dict[str, float]:
    return dict(sorted(metrics.items(), key=lambda item: item[0].startswith("iou/")))
