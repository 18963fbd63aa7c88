"""Measures boundary_loss, which compares upsampled boundary logits with the boundaries of the labels.

The release gets its target ready-made, because its data loader has spent the distance transforms on it.
"""

from __future__ import annotations

import torch

from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import functional, reference
from inverseform_fast.bench import release


def workload(name: str) -> Workload:
    """Make the workload; ``name`` is ``logits-labels``, their dtypes."""
    dtype, label_dtype = (getattr(torch, part) for part in name.split("-"))
    logits, labels = inputs.boundary_logits(dtype), inputs.street_labels(label_dtype)
    target = reference.boundary_map(labels)
    forward = logits.nbytes + labels.nbytes
    return Workload(
        function=functional.boundary_loss,
        reference=reference.boundary_loss,
        release=lambda logits, labels: release.boundary_loss(logits, target),
        arguments=(logits, labels),
        # Logits and labels are read. Backward reads the gradient that the forward pass made, scales and writes it; if
        # both run together, the gradient is only written.
        bytes={"forward": forward, "backward": 2 * logits.nbytes, "both": forward + logits.nbytes},
    )


test_boundary_loss = harness.cases("boundary_loss", workload, ["bfloat16-int64", "float32-int64"])
test_uint8 = harness.cases("boundary_loss", workload, ["bfloat16-uint8"], providers=harness.PROVIDERS[:3])
