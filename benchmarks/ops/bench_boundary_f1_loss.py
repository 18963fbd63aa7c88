"""Measures boundary_f1_loss of logits at a quarter of the resolution, upsampled, and the labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import functional, reference


def stock(logits: Tensor, labels: Tensor) -> Tensor:
    """Upsample, then take the sums of boundaries by max-pooling, as autocast would run it."""
    upsampled = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False).float()
    valid = (labels != 255)[:, None]
    known = F.max_pool2d((~valid).float(), 5, 1, 2) == 0
    probability = upsampled.softmax(1)
    predicted = (probability + F.max_pool2d(-probability, 5, 1, 2)) * known
    mask = F.one_hot(labels.long() * valid[:, 0], logits.shape[1]).movedim(-1, 1).float() * valid
    true = (mask + F.max_pool2d(-mask, 5, 1, 2)) * known
    near = F.max_pool2d(true, 5, 1, 2)
    sums = [maps.sum((0, 2, 3)) for maps in (predicted, predicted * near, predicted * true, true)]
    f1 = 2 * sums[1] * sums[2] / (sums[1] * sums[3] + sums[2] * sums[0]).clamp(min=torch.finfo(torch.float32).tiny)
    return ((1 - f1) * (sums[3] > 0)).sum() / (sums[3] > 0).sum()


def workload(name: str) -> Workload:
    """Make the workload; ``name`` is ``logits-labels``, their dtypes."""
    dtype, label_dtype = (getattr(torch, part) for part in name.split("-"))
    logits, labels = inputs.logits(dtype), inputs.street_labels(label_dtype)
    forward = logits.nbytes + labels.nbytes
    return Workload(
        function=functional.boundary_f1_loss,
        reference=reference.boundary_f1_loss,
        release=stock,
        arguments=(logits, labels),
        # Each pass reads logits and labels, because a pixel's gradient depends on the sums of all pixels.
        bytes={"forward": forward, "backward": forward + logits.nbytes, "both": 2 * forward + logits.nbytes},
    )


test_boundary_f1_loss = harness.cases("boundary_f1_loss", workload, ["bfloat16-int64", "float32-int64"])
