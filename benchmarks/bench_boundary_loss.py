"""boundary_loss: boundary logits, upsampled, against the boundaries of the labels.

The release is given its target ready-made: its data loader has spent the distance transforms on it.
"""

from __future__ import annotations

import torch

from benchmarks import harness, release
from inverseform_fast import functional, reference


def workload(name: str) -> harness.Workload:
    """``logits-labels``: their dtypes."""
    dtype, label_dtype = (getattr(torch, part) for part in name.split("-"))
    logits, labels = harness.boundary_logits(dtype), harness.street_labels(label_dtype)
    target = reference.boundary_map(labels)
    forward = logits.nbytes + labels.nbytes
    return harness.Workload(
        function=functional.boundary_loss,
        reference=reference.boundary_loss,
        release=lambda logits, labels: release.boundary_loss(logits, target),
        arguments=(logits, labels),
        # Logits and labels read; a gradient made in the forward pass read, scaled and written; in one go only written.
        bytes={"forward": forward, "backward": 2 * logits.nbytes, "both": forward + logits.nbytes},
    )


test_boundary_loss = harness.cases("boundary_loss", workload, ["bfloat16-int64", "float32-int64"])
test_uint8 = harness.cases("boundary_loss", workload, ["bfloat16-uint8"], providers=harness.PROVIDERS[:3])
