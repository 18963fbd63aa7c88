"""Metrics of saliency come from a sweep over thresholds."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from .checks import check_binary

THRESHOLDS = tuple(percent / 100 for percent in range(20, 91, 5))


class SaliencyMetrics(Metric):
    """Accumulates IoU, precision and recall of each image at 15 thresholds, 0.20 to 0.90.

    A pixel is predicted if its probability exceeds the threshold. ``compute`` returns ``miou``, the highest mean IoU of
    the images over the thresholds, and ``maxf``, the highest F-score ``2PR / (P + R)`` of their mean precision and mean
    recall; NaN if no image had a valid pixel. An image with nothing salient, neither true nor predicted, has IoU 1.

    Args:
        void: value of a target pixel without a truth; an image of nothing else is left out.
    """

    full_state_update = False
    sums: Tensor
    images: Tensor

    def __init__(self, void: float = 255) -> None:
        super().__init__(compute_with_cache=False)  # torchmetrics' cache would outlive a merge
        self.void = void
        sums = torch.zeros(3, len(THRESHOLDS), dtype=torch.float64)  # of IoU, precision and recall
        self.add_state("sums", sums, dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch.

        Args:
            prediction: (N, H, W) probabilities.
            target: (N, H, W) of 0, 1 (salient) and ``void``.

        Raises:
            TypeError: the prediction holds no floats.
            ValueError: a shape is wrong, or a value is none of these.
        """
        check_binary(prediction, target, self.void)
        thresholds = prediction.new_tensor(THRESHOLDS)[:, None]
        for probability, truth in zip(prediction.flatten(1), target.flatten(1), strict=True):
            valid = truth != self.void
            if not bool(valid.any()):
                continue
            predicted, true = (probability > thresholds) & valid, (truth == 1) & valid
            hits, found, real = (pixels.sum(-1).double() for pixels in (predicted & true, predicted, true))
            union = found + real - hits
            iou = torch.where(union > 0, hits / union.clamp(min=1), 1)
            self.sums += torch.stack((iou, hits / (found + 1e-12), hits / (real + 1e-12)))
            self.images += 1

    def compute(self) -> dict[str, float]:
        """Returns the metrics of all batches so far, by the names that the class lists."""
        iou, precision, recall = self.sums.cpu() / self.images.cpu()  # 0/0 = NaN
        f = 2 * precision * recall / (precision + recall + 1e-12)
        return {"miou": float(iou.max()), "maxf": float(f.max())}
