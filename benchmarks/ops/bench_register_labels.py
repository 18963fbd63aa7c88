"""Measures register_labels, which asks where each tile's labels are most likely.

The prediction has a quarter of the resolution and sees the labels where they are, but not sharply; the labels lie six
pixels beside it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import functional, reference


def workload(name: str) -> Workload:
    """Make the workload; ``name`` is ``logits-labels``, their dtypes."""
    dtype, label_dtype = (getattr(torch, part) for part in name.split("-"))
    labels = inputs.street_labels(label_dtype)
    seen = F.one_hot(labels[:, ::4, ::4].long() % inputs.CLASSES, inputs.CLASSES).movedim(-1, 1).to(dtype)
    logits = 6 * F.avg_pool2d(seen, 5, 1, 2)
    return Workload(
        function=functional.register_labels,
        reference=reference.register_labels,
        arguments=(logits, labels.roll(6, -1)),
        bytes={"forward": logits.nbytes + labels.nbytes},
        tolerance=1e-2,  # a step that helps and one that fails are told apart by rounding
    )


test_register_labels = harness.cases(
    "register_labels", workload, ["bfloat16-uint8", "float32-int64"], ["forward"], ["reference", "fused"]
)
