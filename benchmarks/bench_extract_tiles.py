"""extract_tiles: boundary logits of a quarter's resolution and a full-resolution target to pairs of network tiles."""

from __future__ import annotations

import torch

from benchmarks import harness, release
from inverseform_fast import functional, reference

SIZE, TILE = ((1120, 2016), 224) if harness.ON_GPU else ((112, 224), 56)


def without_void(predicted: torch.Tensor, target: torch.Tensor, *options: object) -> object:
    """What the release computes: it compares void like any other place without a boundary."""
    return reference.extract_tiles(predicted, (target == 1).to(torch.uint8), *options)


def workload(name: str) -> harness.Workload:
    predicted = harness.boundary_logits(getattr(torch, name))
    target = reference.boundary_map(harness.street_labels(torch.uint8))[:, None]
    tiles = 4 * harness.BATCH * SIZE[0] * SIZE[1]  # float32, of one side
    forward, backward = predicted.nbytes + target.nbytes + 2 * tiles, tiles + target.nbytes + 2 * predicted.nbytes
    return harness.Workload(
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
