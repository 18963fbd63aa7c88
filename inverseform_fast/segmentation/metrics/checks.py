"""Metrics check what they are given."""

from __future__ import annotations

import torch
from torch import Tensor


def check_labels(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> None:
    """Checks a batch of class ids (N, H, W).

    Raises:
        TypeError: the labels are no integers.
        ValueError: a shape is wrong, or a class id is out of range.
    """
    if prediction.ndim != 3 or prediction.shape != target.shape:
        raise ValueError(
            "prediction and target must have the same shape (N, H, W), "
            f"got {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    for name, labels in (("prediction", prediction), ("target", target)):
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"{name} must hold integer class ids, got {labels.dtype}")
        known = (labels >= 0) & (labels < num_classes)
        if name == "target":
            known |= labels == ignore_index
        if not bool(known.all()):
            wrong = sorted(set(labels[~known].tolist()))[:5]
            raise ValueError(f"{name} must hold class ids 0 .. {num_classes - 1}, got {wrong}")
