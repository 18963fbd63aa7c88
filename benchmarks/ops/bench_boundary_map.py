"""Measures boundary_map, which makes boundary targets of labels.

White noise is the worst case. The distance transforms get a single image.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Workload
from inverseform_fast import functional, reference
from inverseform_fast.bench import release


def workload(name: str) -> Workload:
    """Make the workload; ``name`` is ``labels-dtype[-images]``."""
    kind, dtype, *images = name.split("-")
    labels = inputs.street_labels(getattr(torch, dtype), *map(int, images))
    if kind == "noise":
        labels = torch.randint_like(labels, inputs.CLASSES)
    return Workload(
        function=functional.boundary_map,
        reference=reference.boundary_map,
        release=release.boundary_map,
        truth_of_release=partial(reference.boundary_map, release=True),
        arguments=(labels,),
        bytes={"forward": labels.nbytes + labels.numel()},  # labels are read once, a byte per pixel is written
    )


test_boundary_map = harness.cases(
    "boundary_map", workload, ["street-uint8", "street-int64", "noise-uint8"], ["forward"], harness.PROVIDERS[1:]
)
test_one_image = harness.cases("boundary_map", workload, ["street-uint8-1"], ["forward"])
