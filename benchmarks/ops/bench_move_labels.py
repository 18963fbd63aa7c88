"""Measures move_labels, which reads labels along a flow of the tiles' motions."""

from __future__ import annotations

import torch

from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import functional, reference
from inverseform_fast.tiling import tiles


def workload(name: str) -> Workload:
    """Make the workload; ``name`` is the labels' dtype."""
    labels = inputs.street_labels(getattr(torch, name))
    motion = 0.02 * inputs.noise((len(labels), *tiles(labels), 8))
    displacement = 2 * 4 * labels.numel()
    return Workload(
        function=functional.move_labels,
        reference=reference.move_labels,
        arguments=(motion, labels),
        bytes={"forward": 2 * labels.nbytes + displacement},
        tolerance=1e-2,  # a place just between two pixels is rounded either way
    )


test_move_labels = harness.cases("move_labels", workload, ["uint8", "int64"], ["forward"], ["reference", "fused"])
