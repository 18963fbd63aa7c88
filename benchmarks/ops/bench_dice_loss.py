"""Measures dice_loss, which compares logits at a quarter of the resolution, upsampled, with the labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import functional, reference


def stock(logits: Tensor, labels: Tensor) -> Tensor:
    """Upsample, then take the sums of the softmax and the one-hot labels, as autocast would run it."""
    upsampled = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False).float()
    valid = (labels != 255)[:, None]
    predicted = upsampled.softmax(1) * valid
    true = F.one_hot(labels.long() * valid[:, 0], logits.shape[1]).movedim(-1, 1) * valid
    pixels = true.sum((0, 2, 3))
    loss = 1 - 2 * (predicted * true).sum((0, 2, 3)) / (predicted.sum((0, 2, 3)) + pixels).clamp(min=1)
    return (loss * (pixels > 0)).sum() / (pixels > 0).sum()


def workload(name: str) -> Workload:
    """Make the workload; ``name`` is ``logits-labels``, their dtypes."""
    dtype, label_dtype = (getattr(torch, part) for part in name.split("-"))
    logits, labels = inputs.logits(dtype), inputs.street_labels(label_dtype)
    forward = logits.nbytes + labels.nbytes
    return Workload(
        function=functional.dice_loss,
        reference=reference.dice_loss,
        release=stock,
        arguments=(logits, labels),
        # Each pass reads logits and labels, because a pixel's gradient depends on the sums of all pixels.
        bytes={"forward": forward, "backward": forward + logits.nbytes, "both": 2 * forward + logits.nbytes},
    )


test_dice_loss = harness.cases("dice_loss", workload, ["bfloat16-int64", "float32-int64"])
