"""The clock of every benchmark, which waits for the device, and functions that time calls and sum up the times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch

T = TypeVar("T")
Clock = Callable[[], float]
SHORTEST = 0.02  # seconds of a measurement: long enough to drown the wait for the device at its end


class Spread(NamedTuple):
    """Median and interquartile range, in the unit of the samples."""

    median: float
    iqr: float


def clock_of(device: torch.device) -> Clock:
    """A clock that says, in seconds, when the device has finished what it was given."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def timed(call: Callable[[], object], clock: Clock, repeats: int = 1) -> float:
    """Seconds of one call, on average."""
    begin = clock()
    for _ in range(repeats):
        call()
    return (clock() - begin) / repeats


def repeats_of(call: Callable[[], object], clock: Clock, at_least: int = 1) -> int:
    """How many calls a measurement of ``SHORTEST`` needs: ``at_least``, doubled until they take long enough."""
    repeats = at_least
    while timed(call, clock, repeats) * repeats < SHORTEST:
        repeats *= 2
    return repeats


def in_turns(measures: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each measure returns in each round. They take turns, so that other work slows all alike."""
    results: dict[str, list[T]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            results[name].append(measure())
    return results


def spread(samples: Sequence[float]) -> Spread:
    quartiles = statistics.quantiles(samples, n=4) if len(samples) > 1 else [0.0] * 3
    return Spread(statistics.median(samples), quartiles[2] - quartiles[0])
