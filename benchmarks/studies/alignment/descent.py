"""Descends by a loss's gradient, on the coefficients of a warp or on free logits, and measures how near it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from scipy.stats import binomtest
from torch import Tensor

from benchmarks.common.results import Json
from benchmarks.studies.alignment.losses import SURE, Loss
from benchmarks.studies.alignment.starts import HALF, Starts, Truth, corners, displaced, distances, warped

HOME = 1.0  # pixels; a start that ends nearer than that has come home


def descend(start: Tensor, value: Callable[[Tensor], Tensor], rate: float, steps: int) -> Tensor:
    x = start.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        value(x).backward()
        adam.step()
        schedule.step()
    return x.detach()


def warp_outcome(loss: Loss, starts: Starts, rate: float, steps: int) -> Json:
    a = descend(starts.a, lambda a: loss(warped(starts.squares, a), starts.truth), rate / HALF, steps)
    remaining = corners(a)
    home, starting = int((remaining < HOME).sum()), len(remaining)
    interval = binomtest(home, starting).proportion_ci(0.95, "wilson")
    return {
        "home": home,
        "of": starting,
        "interval": [interval.low, interval.high],
        "left_px": remaining.median().item(),
    }


def pixel_outcome(loss: Loss, starts: Starts, rate: float, steps: int) -> Json:
    logits = torch.where(displaced(starts), SURE, -SURE)
    return agreement(descend(logits, lambda x: loss(x.sigmoid(), starts.truth), rate, steps) > 0, starts.truth)


def agreement(predicted: Tensor, truth: Truth) -> dict[str, float]:
    """Measure the boundary F-score at 1 px, and the mean distance of predicted pixels from the truth, in pixels."""

    def share(near: Tensor, mask: Tensor) -> Tensor:
        return (near & mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1)

    precision = share(truth.outside <= 1, predicted)
    recall = share(distances(predicted)[0] <= 1, truth.boundary > 0)
    f = 2 * precision * recall / (precision + recall).clamp(min=1e-9)
    return {"f_1px": f.mean().item(), "distance_px": truth.outside[predicted].mean().item()}


@dataclass(frozen=True)
class Version:
    outcome: Callable[[Loss, Starts, float, int], Json]
    merit: Callable[[Json], tuple[float, ...]]  # the rate with the largest merit of its outcome is chosen
    displacements: tuple[int, ...]  # mean displacements of the corners, in pixels
    rates: tuple[float, ...]


WARP = Version(warp_outcome, lambda o: (o["home"], -o["left_px"]), (2, 4, 6, 8, 12, 16, 20, 24), (0.5, 1.0, 2.0))
PIXEL = Version(pixel_outcome, lambda o: (o["f_1px"],), (4, 12), (0.1, 0.3, 1.0))


def run(version: Version, name: str, loss: Loss, batches: Mapping[int, Starts], held_out: Starts, steps: int) -> Json:
    begin = time.process_time()
    trials = {rate: version.outcome(loss, held_out, rate, steps) for rate in version.rates}
    rate = max(trials, key=lambda candidate: version.merit(trials[candidate]))
    outcomes = {str(px): version.outcome(loss, batches[px], rate, steps) for px in version.displacements}
    seconds = time.process_time() - begin
    print(f"{name}: rate {rate}, {seconds:.0f} CPU seconds", flush=True)
    return {"rate": rate, "trials": trials, "outcomes": outcomes, "cpu_seconds": seconds}
