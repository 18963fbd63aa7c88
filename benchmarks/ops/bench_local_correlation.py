"""Measures local_correlation on the features of the default network's tiles."""

from __future__ import annotations

import torch

from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import functional, reference


def workload(name: str) -> Workload:
    """Make the workload; ``name`` is the dtype of the features."""
    generator = torch.Generator(inputs.DEVICE).manual_seed(0)
    shape = (inputs.BATCH * 10, 16, 28, 28)  # ten tiles for each image
    first, second = torch.randn(2, *shape, device=inputs.DEVICE, generator=generator).to(getattr(torch, name))
    result = first.nbytes * 2 * 49 // 16
    return Workload(
        function=lambda a, b: functional.local_correlation(a, b, 3, 2),
        reference=lambda a, b: reference.local_correlation(a, b, 3, 2),
        arguments=(first.requires_grad_(), second.requires_grad_()),
        # Forward reads both maps and writes the correlation; backward reads all three, and writes both gradients.
        bytes={
            "forward": 2 * first.nbytes + result,
            "backward": result + 4 * first.nbytes,
            "both": 2 * result + 4 * first.nbytes,
        },
    )


test_local_correlation = harness.cases("local_correlation", workload, ["float32"], providers=harness.PROVIDERS[1:])
