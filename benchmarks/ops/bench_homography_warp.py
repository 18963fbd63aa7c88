"""Measures homography_warp with one homography per tile, as in training the inverse-transformation network."""

from __future__ import annotations

import torch

from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import functional, homography, reference
from inverseform_fast.bench import release

TILES, TILE = (288, 224) if inputs.ON_GPU else (8, 56)


def workload(name: str) -> Workload:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(TILES, 1, TILE, TILE, generator=generator)
    theta = homography.exp(homography.sample(TILES, 16 / 112, generator=generator))
    image, theta = image.to(inputs.DEVICE, getattr(torch, name)), theta.to(inputs.DEVICE)
    forward, backward = 2 * image.nbytes + theta.nbytes, 3 * image.nbytes + 2 * theta.nbytes
    return Workload(
        function=functional.homography_warp,
        reference=reference.homography_warp,
        release=release.homography_warp,
        arguments=(image.requires_grad_(), theta.requires_grad_()),
        # Forward reads image and theta and writes the result; backward reads them and the result's gradient, and writes
        # both gradients.
        bytes={"forward": forward, "backward": backward, "both": forward + backward},
        # theta's gradient jumps where a sample crosses a pixel's centre, and rounding decides on which side it falls.
        tolerance=2e-2,
    )


test_homography_warp = harness.cases("homography_warp", workload, ["float32", "bfloat16"])
