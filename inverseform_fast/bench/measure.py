"""Measures ways to compute the loss side by side: they take turns, so that what else the machine does befalls all."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch

from .memory import largest_batch, peak_bytes
from .setting import Setting
from .steps import PHASES, Loss, Step, Unavailable
from .timing import Clock, clock_of, in_turns, repeats_of, spread, timed

WARM_UP = 2  # calls; the first one compiles
SAME = 0.02  # of the loss: rounding, and TF32 in the network's convolutions
T = TypeVar("T")


def compare_steps(setting: Setting, providers: Sequence[str], rounds: int = 5) -> list[dict[str, Any]]:
    """Whole training steps, a row for each provider.

    Returns:
        ``provider``; ``status``: ``"measured"``, or why not; then, if measured, ``ms`` and ``iqr_ms`` of a step (median
        and interquartile range over the rounds); ``phases_ms``: medians of ``PHASES``, each with a wait for the device
        at its end; ``images_per_second``; ``peak_bytes``: the most that tensors take in a step. Weights, the
        optimizer's state and the C++ kernels' scratch memory (4 MB per thread) are excluded. The host's time for
        targets is in ``ms`` and in the phase *data*.
    """
    device = torch.device(setting.device)
    clock = clock_of(device)
    steps, rows = _prepared(lambda provider: Step(setting, provider), Step.run, providers)
    times = in_turns({name: partial(_step_times, step, clock) for name, step in steps.items()}, rounds)
    for row in rows:
        if row["provider"] in steps:
            whole = [seconds for seconds, _ in times[row["provider"]]]
            phases = zip(*([b - a for a, b in pairwise(marks)] for _, marks in times[row["provider"]]), strict=True)
            row |= _milliseconds(whole)
            row["phases_ms"] = {n: 1e3 * spread(p).median for n, p in zip(PHASES, phases, strict=True)}
            targets_ms = 1e3 * steps[row["provider"]].targets_seconds
            row["ms"] += targets_ms
            row["phases_ms"]["data"] += targets_ms
            row["images_per_second"] = 1e3 * setting.batch_size / row["ms"]
            row["peak_bytes"] = peak_bytes(steps[row["provider"]].run, device)
    return rows


def compare_losses(setting: Setting, providers: Sequence[str], rounds: int = 7) -> list[dict[str, Any]]:
    """The loss alone, of random logits, with its gradients: a row for each provider.

    Returns:
        ``provider`` and ``status`` as above; ``ms``, ``iqr_ms``, ``peak_bytes`` (logits, labels and targets not
        counted); ``targets_ms``: what the loss wants of the data loader, on the host, 0 for all but the release;
        ``value``: of the loss, which must be the reference's for ``compiled`` and ``fused``.
    """
    device = torch.device(setting.device)
    clock = clock_of(device)
    losses = {}

    def prepare(provider: str) -> Callable[[], torch.Tensor]:
        losses[provider] = Loss(setting, provider)
        return losses[provider].alone()

    calls, rows = _prepared(prepare, lambda call: call(), providers)
    times = in_turns(
        {name: partial(timed, call, clock, repeats_of(call, clock)) for name, call in calls.items()}, rounds
    )
    values = {provider: float(call()) for provider, call in calls.items()}
    for row in rows:
        name = row["provider"]
        if name not in calls:
            continue
        row |= _milliseconds(times[name]) | {"peak_bytes": peak_bytes(calls[name], device), "value": values[name]}
        row["targets_ms"] = 1e3 * losses[name].targets_seconds
        true = values.get("reference")
        if name in ("compiled", "fused") and true is not None and not abs(values[name] - true) <= SAME * abs(true):
            row["status"] = f"wrong: {values[name]:.6g}, the reference has {true:.6g}"
    return rows


def largest(setting: Setting, provider: str, limit: int | None = None, at_most: int = 1024) -> int:
    """The largest batch that a step fits into memory with: the GPU's, or ``limit`` bytes of tensors.

    Raises:
        ValueError: no limit on a device other than a GPU. Unavailable: the provider cannot run here.
    """
    device = torch.device(setting.device)
    if limit is None and device.type != "cuda":
        raise ValueError("limit must be given in bytes: only a GPU says that its memory is used up")

    def fits(batch_size: int) -> bool:
        free_memory()
        try:
            step = Step(replace(setting, batch_size=batch_size), provider)
            step.run()  # the optimizer's state is made in the first step, and belongs to what must fit
            peak = peak_bytes(step.run, device)
            return limit is None or peak <= limit
        except RuntimeError as error:
            if is_out_of_memory(error):
                return False
            raise

    try:
        return largest_batch(fits, at_most)
    finally:
        free_memory()


def _prepared(
    make: Callable[[str], T], call: Callable[[T], object], providers: Sequence[str]
) -> tuple[dict[str, T], list[dict[str, Any]]]:
    """What ``make`` makes of each provider, warmed up; and the row of every provider, with its status."""
    free_memory()
    ready, rows = {}, []
    for provider in providers:
        try:
            ready[provider] = make(provider)
            for _ in range(WARM_UP):
                call(ready[provider])
            status = "measured"
        except Unavailable as error:
            status = f"cannot run here: {error}"
        except ValueError:  # a setting that is wrong for all of them
            raise
        except Exception as error:  # torch.compile without a compiler, say: the others go on
            status = f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            if is_out_of_memory(error):
                status = "out of memory"
        if status != "measured":
            ready.pop(provider, None)
            free_memory()
        rows.append({"provider": provider, "status": status})
    return ready, rows


def _step_times(step: Step, clock: Clock) -> tuple[float, list[float]]:
    """Seconds of a whole step; and what the clock says at the begin and the ends of the phases of another one."""
    return timed(step.run, clock), step.run(clock)


def _milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    median, iqr = spread(seconds)
    return {"ms": 1e3 * median, "iqr_ms": 1e3 * iqr}


def is_out_of_memory(error: Exception) -> bool:
    """Whatever library it came from: cuBLAS and Triton have errors of their own."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "alloc_failed" in text


def free_memory() -> None:
    torch.compiler.reset()  # what was compiled for another setting would be made to fit both
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
