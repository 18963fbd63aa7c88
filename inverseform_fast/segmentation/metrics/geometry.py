"""Metrics of surface normals and of depth, over all valid pixels of a data set."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from .checks import check_numbers

_BINS = 100  # of a degree
WITHIN = (11.25, 22.5, 30.0)  # degrees


class NormalMetrics(Metric):
    """Accumulates the angles between predicted and true normals, in degrees.

    ``compute`` returns the ``mean``, the ``median`` (the lower one, to 0.01 degrees) and the ``rmse`` of the angle, and
    the shares ``within_11.25``, ``within_22.5`` and ``within_30`` of the pixels whose angle is smaller; NaN if no pixel
    was valid.

    Args:
        void: value of all three numbers of a target pixel without a truth.
    """

    full_state_update = False
    histogram: Tensor
    sums: Tensor

    def __init__(self, void: float = 255) -> None:
        super().__init__(compute_with_cache=False)  # torchmetrics' cache would outlive a merge
        self.void = void
        self.add_state("histogram", torch.zeros(180 * _BINS, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("sums", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")  # of angles, of their squares

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch.

        Args:
            prediction: (N, 3, H, W) floats of any length but 0.
            target: (N, 3, H, W) unit vectors; all three numbers are ``void`` where there is none.

        Raises:
            TypeError: the prediction holds no floats.
            ValueError: a shape is wrong, or the prediction is not finite.
        """
        check_numbers(prediction, target, channels=3)
        cosine = (F.normalize(prediction.double(), dim=1) * target.double()).sum(1).clamp(-1, 1)
        angle = cosine[(target != self.void).all(1)].acos().rad2deg()
        self.sums += torch.stack((angle.sum(), angle.square().sum()))
        bins = (angle * _BINS).long().clamp(max=len(self.histogram) - 1)
        self.histogram += torch.bincount(bins, minlength=len(self.histogram))

    def compute(self) -> dict[str, float]:
        """Returns the metrics of all batches so far, by the names that the class lists."""
        histogram, pixels = self.histogram.cpu(), int(self.histogram.sum())
        shares = {f"within_{limit:g}": histogram[: int(limit * _BINS)].sum() for limit in WITHIN}
        if not pixels:
            return dict.fromkeys(("mean", "median", "rmse", *shares), math.nan)
        mean, square = (self.sums.cpu() / pixels).tolist()
        middle = int(torch.searchsorted(histogram.cumsum(0), (pixels + 1) // 2))
        metrics = {"mean": mean, "median": (middle + 0.5) / _BINS, "rmse": math.sqrt(square)}
        return metrics | {name: int(count) / pixels for name, count in shares.items()}


class DepthMetrics(Metric):
    """Accumulates the errors of depth.

    ``compute`` returns ``rmse`` in the data's units and ``log_rmse``, the RMSE of the natural logarithm, for which
    predictions are at least 1e-9; NaN if no pixel was valid.

    Args:
        void: value of a target pixel without a truth.
    """

    full_state_update = False
    squares: Tensor
    pixels: Tensor

    def __init__(self, void: float = 0) -> None:
        super().__init__(compute_with_cache=False)  # torchmetrics' cache would outlive a merge
        self.void = void
        self.add_state("squares", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")  # of errors, of their logs
        self.add_state("pixels", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch.

        Args:
            prediction: (N, H, W) floats.
            target: (N, H, W) positive depth, ``void`` where there is none.

        Raises:
            TypeError: the prediction holds no floats.
            ValueError: a shape is wrong, the prediction is not finite, or a true depth is not positive.
        """
        check_numbers(prediction, target)
        valid = target != self.void
        predicted, true = prediction[valid].double(), target[valid].double()
        if not bool((true > 0).all()):
            raise ValueError(f"target must hold positive depth and {self.void:g} (void), got {float(true.min()):g}")
        ratio = predicted.clamp(min=1e-9) / true
        self.squares += torch.stack(((predicted - true).square().sum(), ratio.log().square().sum()))
        self.pixels += valid.sum()

    def compute(self) -> dict[str, float]:
        """Returns the metrics of all batches so far, by the names that the class lists."""
        rmse, log_rmse = (self.squares.cpu() / self.pixels.cpu()).sqrt().tolist()  # 0/0 = NaN
        return {"rmse": rmse, "log_rmse": log_rmse}
