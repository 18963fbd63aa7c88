"""Measures align on the default network's tiles; it is one of the network's two steps."""

from __future__ import annotations

import torch

from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import functional, reference
from inverseform_fast.nets import Align, InverseTransformNet


def workload(name: str) -> Workload:
    """Make the workload; ``name`` is the dtype of the tiles."""
    generator = torch.Generator(inputs.DEVICE).manual_seed(0)
    net = InverseTransformNet.compact().requires_grad_(False).to(inputs.DEVICE)
    assert isinstance(net, Align)
    weights = net.weights
    shape = (inputs.BATCH * 10, 1, 224, 224)  # ten tiles for each image
    predicted, target = torch.rand(2, *shape, device=inputs.DEVICE, generator=generator).to(getattr(torch, name))
    return Workload(
        function=lambda a, b: functional.align(a, b, weights),
        reference=lambda a, b: reference.align(a, b, weights),
        arguments=(predicted.requires_grad_(), target.requires_grad_()),
        # Both tiles are read, and their gradients are written.
        bytes={"forward": 2 * predicted.nbytes, "backward": 4 * predicted.nbytes, "both": 6 * predicted.nbytes},
    )


test_align = harness.cases("align", workload, ["float32"], providers=harness.PROVIDERS[1:])
