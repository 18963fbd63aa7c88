"""homography_exp of the tiles of a batch, as in the network's second step."""

from __future__ import annotations

import torch

from benchmarks import harness
from inverseform_fast import functional, homography, reference


def workload(name: str) -> harness.Workload:
    """``name``: dtype of the coefficients."""
    rows = harness.BATCH * (45 if harness.ON_GPU else 10)  # tiles of an image
    a = homography.sample(rows, 16 / 112, generator=torch.Generator().manual_seed(0))
    a = a.to(harness.DEVICE, getattr(torch, name))
    theta = a.nbytes // 8 * 9
    forward, backward = a.nbytes + theta, 2 * a.nbytes + theta
    return harness.Workload(
        function=functional.homography_exp,
        reference=reference.homography_exp,
        arguments=(a.requires_grad_(),),
        # Coefficients read and homographies written; both read again, and the gradient written.
        bytes={"forward": forward, "backward": backward, "both": forward + backward},
    )


test_homography_exp = harness.cases("homography_exp", workload, ["float32"], providers=harness.PROVIDERS[1:])
