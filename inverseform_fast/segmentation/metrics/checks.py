"""Metrics check what they are given."""

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import check_tensor


def checked_labels(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Checks a batch of class ids (N, H, W), and returns it as int64: narrow dtypes cannot hold every class id.

    Raises:
        TypeError: the labels are no integers.
        ValueError: a shape is wrong, or a class id is out of range.
    """
    check_tensor(prediction, "prediction")
    check_tensor(target, "target")
    if prediction.ndim != 3 or prediction.shape != target.shape:
        raise ValueError(
            "prediction and target must have the same shape (N, H, W), "
            f"got {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    wide = []
    for name, labels in (("prediction", prediction), ("target", target)):
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"{name} must hold integer class ids, got {labels.dtype}")
        labels = labels.long()
        wide.append(labels)
        known = (labels >= 0) & (labels < num_classes)
        if name == "target":
            known |= labels == ignore_index
        if not bool(known.all()):
            wrong = sorted(set(labels[~known].tolist()))[:5]
            raise ValueError(f"{name} must hold class ids 0 .. {num_classes - 1}, got {wrong}")
    return wide[0], wide[1]
