"""How near labels are to the truth, before and after they were moved."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.common.labels import composed
from benchmarks.studies.alignment.starts import distances
from benchmarks.studies.displaced.displacements import Displaced
from inverseform_fast.functional import boundary_map

BATCH = 8  # images


def nearness(truth: Tensor, given: Displaced, labels: Tensor, motion: Tensor) -> dict[str, float]:
    """How far labels are from the truth before and after they were moved by ``motion``, in pixels.

    ``before_px`` and ``after_px`` are distances of boundaries, ``motion_before`` and ``motion_after`` the mean lengths
    of the displacement, where there is one.
    """
    before, after = (boundary_distance(each, truth) for each in (given.labels, labels))
    found = {"before_px": mean(before), "after_px": mean(after), "better": mean((after < before).float())}
    found["moved"] = mean(motion.flatten(1).any(1).float())
    if given.motion is not None:
        pairs = zip(given.motion.split(BATCH), motion.split(BATCH), strict=True)
        found["motion_before"] = mean(given.motion.norm(dim=1))
        found["motion_after"] = mean(torch.cat([composed(*pair).norm(dim=1) for pair in pairs]))
    return found


def mean(values: Tensor) -> float:
    return values.nanmean().item()


def boundary_distance(labels: Tensor, truth: Tensor) -> Tensor:
    """Mean distance (N,) in pixels from one's boundary to the other's, both ways; NaN if one of them has none."""
    sides = [(boundary_map(each, radius=1) == 1)[:, None] for each in (labels, truth)]
    ways = [_mean_distance(mine, other) for mine, other in (sides, sides[::-1])]
    return torch.stack(ways).mean(0)


def _mean_distance(mine: Tensor, other: Tensor) -> Tensor:
    away = torch.where(other.flatten(1).any(1)[:, None, None, None], distances(other)[0], torch.nan)
    return (away * mine).flatten(1).sum(1) / mine.flatten(1).sum(1)
