"""segmentation_loss: logits of a quarter's resolution, upsampled, against full-resolution labels."""

from __future__ import annotations

import torch

from benchmarks import harness, release
from inverseform_fast import functional, reference


def workload(name: str) -> harness.Workload:
    """``logits-labels``: their dtypes."""
    dtype, label_dtype = (getattr(torch, part) for part in name.split("-"))
    logits, labels = harness.logits(dtype), harness.street_labels(label_dtype)
    forward = logits.nbytes + labels.nbytes
    return harness.Workload(
        function=functional.segmentation_loss,
        reference=reference.segmentation_loss,
        release=release.segmentation_loss,
        arguments=(logits, labels),
        # Logits and labels read; a gradient made in the forward pass read, scaled and written; in one go only written.
        bytes={"forward": forward, "backward": 2 * logits.nbytes, "both": forward + logits.nbytes},
    )


test_segmentation_loss = harness.cases("segmentation_loss", workload, ["bfloat16-int64", "float32-int64"])
test_uint8 = harness.cases("segmentation_loss", workload, ["bfloat16-uint8"], providers=harness.PROVIDERS[:3])
