"""Metrics check what they are given."""

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import check_floating, check_tensor


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


def check_numbers(prediction: Tensor, target: Tensor, channels: int | None = None) -> None:
    """Checks a batch of maps of numbers: both (N, H, W), or (N, channels, H, W).

    Raises:
        TypeError: the prediction holds no floats.
        ValueError: a shape is wrong, or the prediction is not finite.
    """
    check_tensor(prediction, "prediction")
    check_tensor(target, "target")
    form = "(N, H, W)" if channels is None else f"(N, {channels}, H, W)"
    fits = prediction.ndim == 3 if channels is None else prediction.ndim == 4 and prediction.shape[1] == channels
    if not fits or prediction.shape != target.shape:
        raise ValueError(
            f"prediction and target must have the same shape {form}, "
            f"got {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    check_floating(prediction, "prediction")
    if not bool(prediction.isfinite().all()):
        raise ValueError("prediction must be finite, but holds NaN or infinity")


def check_binary(prediction: Tensor, target: Tensor, void: float) -> None:
    """Checks a batch of probabilities (N, H, W) and its target of 0, 1 and ``void``.

    Raises:
        TypeError: the prediction holds no floats.
        ValueError: a shape is wrong, or a value is none of these.
    """
    check_numbers(prediction, target)
    if not bool(((prediction >= 0) & (prediction <= 1)).all()):
        raise ValueError(
            f"prediction must hold probabilities, 0 to 1, got {prediction.min():g} to {prediction.max():g}"
        )
    known = (target == 0) | (target == 1) | (target == void)
    if not bool(known.all()):
        raise ValueError(f"target must hold 0, 1 and {void:g} (void), got {float(target[~known][0]):g}")
