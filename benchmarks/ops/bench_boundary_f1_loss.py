"""Measures boundary_f1_loss, which compares the boundaries of logits, which are at 1/4 resolution, and labels."""

from __future__ import annotations

import torch

from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import functional, reference


def workload(name: str) -> Workload:
    """Make the workload; ``name`` is ``logits-labels``, their dtypes."""
    dtype, label_dtype = (getattr(torch, part) for part in name.split("-"))
    logits, labels = inputs.logits(dtype), inputs.street_labels(label_dtype)
    forward = logits.nbytes + labels.nbytes
    return Workload(
        function=functional.boundary_f1_loss,
        reference=reference.boundary_f1_loss,
        arguments=(logits, labels),
        # Each pass reads logits and labels, because a pixel's gradient depends on the sums of all pixels.
        bytes={"forward": forward, "backward": forward + logits.nbytes, "both": 2 * forward + logits.nbytes},
    )


test_boundary_f1_loss = harness.cases(
    "boundary_f1_loss", workload, ["bfloat16-int64", "float32-int64"], providers=harness.PROVIDERS[1:]
)
