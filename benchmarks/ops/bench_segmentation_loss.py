"""Measures segmentation_loss, which compares logits at a quarter of the resolution, upsampled, with the labels."""

from __future__ import annotations

import torch

from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import functional, reference
from inverseform_fast.bench import release


def workload(name: str) -> Workload:
    """Make the workload; ``name`` is ``logits-labels``, their dtypes, and perhaps the logits' memory format."""
    dtype, label_dtype, memory_format = (getattr(torch, part) for part in f"{name}-contiguous_format".split("-")[:3])
    logits, labels = inputs.logits(dtype), inputs.street_labels(label_dtype)
    logits = logits.detach().contiguous(memory_format=memory_format).requires_grad_()
    forward = logits.nbytes + labels.nbytes
    return Workload(
        function=functional.segmentation_loss,
        reference=reference.segmentation_loss,
        release=release.segmentation_loss,
        arguments=(logits, labels),
        # Logits and labels are read. Backward reads the gradient that the forward pass made, scales and writes it; if
        # both run together, the gradient is only written.
        bytes={"forward": forward, "backward": 2 * logits.nbytes, "both": forward + logits.nbytes},
    )


test_segmentation_loss = harness.cases("segmentation_loss", workload, ["bfloat16-int64", "float32-int64"])
test_channels_last = harness.cases(  # the usual layout of mixed precision
    "segmentation_loss", workload, ["bfloat16-int64-channels_last"], providers=harness.PROVIDERS[:3]
)
test_uint8 = harness.cases("segmentation_loss", workload, ["bfloat16-uint8"], providers=harness.PROVIDERS[:3])
