"""Measures homography_exp on the tiles of a batch, as in the network's second step."""

from __future__ import annotations

import torch

from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import functional, homography, reference


def workload(name: str) -> Workload:
    """Make the workload; ``name`` is the dtype of the coefficients."""
    rows = inputs.BATCH * (45 if inputs.ON_GPU else 10)  # tiles of an image
    a = homography.sample(rows, 16 / 112, generator=torch.Generator().manual_seed(0))
    a = a.to(inputs.DEVICE, getattr(torch, name))
    theta = a.nbytes // 8 * 9
    forward, backward = a.nbytes + theta, 2 * a.nbytes + theta
    return Workload(
        function=functional.homography_exp,
        reference=reference.homography_exp,
        arguments=(a.requires_grad_(),),
        # Forward reads coefficients and writes homographies; backward reads both, and writes the gradient.
        bytes={"forward": forward, "backward": backward, "both": forward + backward},
    )


test_homography_exp = harness.cases("homography_exp", workload, ["float32"], providers=harness.PROVIDERS[1:])
