"""Every loss descends from the same starts; each gets the best of three rates on other label maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Generator, Tensor

from benchmarks.common import results
from benchmarks.common.results import Json
from benchmarks.studies.alignment.descent import PIXEL, WARP, Version, agreement, run
from benchmarks.studies.alignment.losses import OTHERS, Loss, inverseform_losses, mix, title
from benchmarks.studies.alignment.starts import displaced, make_starts

GOAL_SHARE, GOAL_HOME, GOAL_AHEAD = 0.95, 12, 6


def keep_rows(path: Path, result: Json) -> None:
    """Take over what an earlier run measured under the same conditions; it was stopped, or had other networks."""
    if not path.exists():
        return
    earlier = results.read(path)
    if any(earlier[name] != result[name] for name in ("data", "starts", "steps", "seed")):
        return
    same = [name for name, net in result["nets"].items() if earlier["nets"].get(name) == net]
    for version in ("warp", "pixel"):
        for name, row in earlier[version].items():
            if not name.startswith("InverseForm") or name.startswith(tuple(title(net, "")[:-1] for net in same)):
                result[version][name] = row


def measure(result: Json, nets: Mapping[str, Path], maps: Tensor, other_maps: Tensor, save: Callable[[], None]) -> None:
    """Measure the rows that ``result`` lacks, and save after each."""
    starts, steps = result["starts"], result["steps"]
    generator = Generator().manual_seed(result["seed"])
    inverseform = inverseform_losses(nets)
    alone = {title(name, "log"): inverseform[title(name, "log")] for name in nets}
    mixed = {f"{name} + balanced BCE": mix(loss) for name, loss in alone.items()}
    batches = {px: make_starts(maps, torch.full((starts,), px), generator) for px in WARP.displacements}

    def rows(version: Version, losses: dict[str, Loss], found: Json) -> Json:
        displacements = torch.tensor(version.displacements).repeat(starts)[:starts]
        held_out = make_starts(other_maps, displacements, generator)
        for name, loss in losses.items():
            if name not in found:
                found[name] = run(version, name, loss, batches, held_out, steps)
                save()
        return {name: found[name] for name in losses}

    result["warp"] = rows(WARP, inverseform | OTHERS, result["warp"])
    result["pixel"] = rows(PIXEL, alone | mixed | OTHERS, result["pixel"])
    starting = {str(px): agreement(displaced(batches[px]), batches[px].truth) for px in PIXEL.displacements}
    result |= {"pixel_starts": starting, "goal": goal(result["warp"], title(next(iter(nets)), "log"))}
    save()


def home_share(row: Json, px: str) -> float:
    return row["outcomes"][px]["home"] / row["outcomes"][px]["of"]


def goal(warp: Json, ours: str) -> Json:
    """Check whether ``ours`` comes home often enough from near, and more often than other losses from far."""
    pixels = warp[ours]["outcomes"]
    home = all(home_share(warp[ours], px) >= GOAL_SHARE for px in pixels if int(px) <= GOAL_HOME)
    ahead = all(
        home_share(warp[ours], px) > home_share(warp[other], px)
        for px in pixels
        for other in OTHERS
        if int(px) > GOAL_AHEAD
    )
    return {"loss": ours, "home": home, "ahead": ahead}
