"""Measures the paper's loss, all three terms with gradients; ``release`` is stock upsampling + cross-entropy alone."""

from __future__ import annotations

import torch

import inverseform_fast as iff
from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import reference
from inverseform_fast.bench import release


def workload(name: str) -> Workload:
    """Make the workload; ``name`` is ``logits-labels-mode``: their dtypes, and ``head`` or ``headless``."""
    *dtypes, mode = name.split("-")
    dtype, label_dtype = (getattr(torch, part) for part in dtypes)
    maps = [inputs.logits(dtype), *([inputs.boundary_logits(dtype)] if mode == "head" else [])]
    labels = inputs.street_labels(label_dtype)
    criterion = iff.BoundaryAwareLoss(beta=10, gamma=0.3, edge=0, dice=0, f1=0).to(inputs.DEVICE)

    def total(logits: torch.Tensor, labels: torch.Tensor, *boundary_logits: torch.Tensor) -> torch.Tensor:
        return criterion(logits, labels, *boundary_logits).total

    return Workload(
        function=total,
        reference=total,
        release=lambda logits, labels, *_: release.segmentation_loss(logits, labels),
        truth_of_release=lambda logits, labels, *_: reference.segmentation_loss(logits, labels),
        arguments=(maps[0], labels, *maps[1:]),
        # Logits and labels are read, and gradients are written; what the network itself moves is not counted.
        bytes={"both": labels.nbytes + 2 * sum(logits.nbytes for logits in maps)},
        tolerance=3e-2,  # the network's convolutions use TF32 on a GPU
    )


test_total_loss = harness.cases(
    "total_loss",
    workload,
    ["bfloat16-int64-head", "bfloat16-int64-headless", "float32-int64-head", "float32-int64-headless"],
    ["both"],
)
