"""extract_tiles: boundary logits of a quarter's resolution and a full-resolution target to pairs of network tiles."""

from __future__ import annotations

import torch

from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import functional, reference
from inverseform_fast.bench import release

SIZE, TILE = ((1120, 2016), 224) if inputs.ON_GPU else ((112, 224), 56)


def without_void(predicted: torch.Tensor, target: torch.Tensor, size: tuple[int, int], tile: int) -> object:
    """What the release computes: it compares void like any other place without a boundary."""
    return reference.extract_tiles(predicted, (target == 1).to(torch.uint8), size, tile)


def workload(name: str) -> Workload:
    predicted = inputs.boundary_logits(getattr(torch, name))
    target = reference.boundary_map(inputs.street_labels(torch.uint8))[:, None]
    tiles = 4 * inputs.BATCH * SIZE[0] * SIZE[1]  # float32, of one side
    forward, backward = predicted.nbytes + target.nbytes + 2 * tiles, tiles + target.nbytes + 2 * predicted.nbytes
    return Workload(
        function=functional.extract_tiles,
        reference=reference.extract_tiles,
        release=release.extract_tiles,
        truth_of_release=without_void,
        arguments=(predicted, target, SIZE, TILE),
        # Both maps read and both sides written; the predicted side's gradient, both maps (sigmoid and void) read, the
        # gradient of the logits written.
        bytes={"forward": forward, "backward": backward, "both": forward + backward},
    )


test_extract_tiles = harness.cases("extract_tiles", workload, ["bfloat16", "float32"])
