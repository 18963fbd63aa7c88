"""Measures soft_boundary_map, which makes boundary probabilities of class logits; the release has nothing like it."""

from __future__ import annotations

import torch

from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import functional, reference


def workload(name: str) -> Workload:
    logits = inputs.logits(getattr(torch, name))
    size = (inputs.HEIGHT, inputs.WIDTH)
    result = 4 * inputs.BATCH * size[0] * size[1]  # float32 and, in the backward pass, its gradient
    forward, backward = logits.nbytes + result, logits.nbytes + result + logits.nbytes
    return Workload(
        function=functional.soft_boundary_map,
        reference=reference.soft_boundary_map,
        arguments=(logits, size),
        # Forward reads logits and writes the result; backward reads logits and its gradient, and writes theirs.
        bytes={"forward": forward, "backward": backward, "both": forward + backward},
    )


test_soft_boundary_map = harness.cases(
    "soft_boundary_map", workload, ["bfloat16", "float32"], providers=harness.PROVIDERS[1:]
)
