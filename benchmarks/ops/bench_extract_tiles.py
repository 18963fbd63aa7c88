"""Measures extract_tiles, which cuts boundary logits of a quarter's resolution and a target into pairs of tiles."""

from __future__ import annotations

import torch

from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import functional, reference
from inverseform_fast.bench import release

SIZE, TILE = ((1120, 2016), 224) if inputs.ON_GPU else ((112, 224), 56)


def without_void(predicted: torch.Tensor, target: torch.Tensor, size: tuple[int, int], tile: int) -> object:
    """Compute what the release does: it compares void like any other place without a boundary."""
    return reference.extract_tiles(predicted, (target == 1).to(torch.uint8), size, tile)


def workload(name: str) -> Workload:
    predicted = inputs.boundary_logits(getattr(torch, name))
    target = reference.boundary_map(inputs.street_labels(torch.uint8))[:, None]
    tiles = 4 * inputs.BATCH * SIZE[0] * SIZE[1]  # bytes of one side in float32
    forward, backward = predicted.nbytes + target.nbytes + 2 * tiles, tiles + target.nbytes + 2 * predicted.nbytes
    return Workload(
        function=functional.extract_tiles,
        reference=reference.extract_tiles,
        release=release.extract_tiles,
        truth_of_release=without_void,
        arguments=(predicted, target, SIZE, TILE),
        # Forward reads both maps and writes both sides; backward reads the predicted side's gradient and both maps (for
        # sigmoid and void), and writes the gradient of the logits.
        bytes={"forward": forward, "backward": backward, "both": forward + backward},
    )


test_extract_tiles = harness.cases("extract_tiles", workload, ["bfloat16", "float32"])
