"""Measures channels_first, which copies channels_last logits to planes, and their gradient back."""

from __future__ import annotations

import torch

from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import functional


def workload(name: str) -> Workload:
    """Make the workload; ``name`` is ``dtype-classes``. The reference is PyTorch's own copy, as stock code would call
    it."""
    dtype, classes = name.split("-")
    maps = inputs.noise((inputs.BATCH, int(classes), inputs.HEIGHT // 4, inputs.WIDTH // 4))
    maps = maps.to(getattr(torch, dtype)).contiguous(memory_format=torch.channels_last)
    moved = 2 * maps.nbytes
    return Workload(
        function=functional.channels_first,
        reference=torch.Tensor.contiguous,
        arguments=(maps.requires_grad_(),),
        # Each pass reads and writes the maps, or their gradient.
        bytes={"forward": moved, "backward": moved, "both": 2 * moved},
    )


test_channels_first = harness.cases(
    "channels_first", workload, ["bfloat16-19", "bfloat16-150"], providers=harness.PROVIDERS[1:3]
)
