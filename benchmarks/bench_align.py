"""align of the default network's tiles: one of its two steps."""

from __future__ import annotations

import torch

from benchmarks import harness
from inverseform_fast import functional, reference
from inverseform_fast.nets import InverseTransformNet


def workload(name: str) -> harness.Workload:
    """``name``: dtype of the tiles."""
    generator = torch.Generator(harness.DEVICE).manual_seed(0)
    weights = InverseTransformNet.compact().requires_grad_(False).to(harness.DEVICE).weights
    shape = (harness.BATCH * 10, 1, 224, 224)  # ten tiles an image
    predicted, target = torch.rand(2, *shape, device=harness.DEVICE, generator=generator).to(getattr(torch, name))
    return harness.Workload(
        function=lambda a, b: functional.align(a, b, weights),
        reference=lambda a, b: reference.align(a, b, weights),
        arguments=(predicted.requires_grad_(), target.requires_grad_()),
        # Both tiles read, and their gradients written.
        bytes={"forward": 2 * predicted.nbytes, "backward": 4 * predicted.nbytes, "both": 6 * predicted.nbytes},
    )


test_align = harness.cases("align", workload, ["float32"], providers=harness.PROVIDERS[1:])
