"""Measures ways to compute the loss in turns, so that other work on the machine slows all of them alike."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TypedDict, TypeVar

import torch

from ..errors import is_out_of_memory
from .memory import largest_batch, peak_bytes
from .setting import Setting
from .steps import PHASES, Loss, Step, Unavailable
from .timing import Clock, clock_of, in_turns, repeats_of, spread, timed

WARM_UP = 2  # calls, of which the first one compiles
SAME = 0.02  # share of the loss that rounding, and TF32 in the network's convolutions, may change
T = TypeVar("T")


class _Row(TypedDict):
    provider: str
    status: str  # "measured", or why not; the fields below exist only if it was measured


class StepRow(_Row, total=False):
    """A whole training step; the host's time for targets is in ``ms`` and in the phase *data*."""

    ms: float  # median over the rounds
    iqr_ms: float
    phases_ms: dict[str, float]  # medians of PHASES, each with a wait for the device at its end
    images_per_second: float
    peak_bytes: int  # of tensors, without the weights, the optimizer's state and the C++ kernels' 4 MB per thread


class LossRow(_Row, total=False):
    """The loss alone, with its gradients."""

    ms: float  # median over the rounds
    iqr_ms: float
    peak_bytes: int  # of tensors, without the logits, labels and targets
    targets_ms: float  # the host's time to make the targets: 0 for all but the release
    value: float  # of the loss, which must be the reference's for "compiled" and "fused"


def compare_steps(setting: Setting, providers: Sequence[str], rounds: int = 5) -> list[StepRow]:
    """Whole training steps, a row for each provider."""
    clock = clock_of(torch.device(setting.device))
    steps, statuses = _prepared(lambda provider: Step(setting, provider), Step.run, providers)
    times = in_turns({name: partial(_step_times, step, clock) for name, step in steps.items()}, rounds)
    return [
        _step_row(name, steps[name], times[name]) if name in steps else {"provider": name, "status": statuses[name]}
        for name in providers
    ]


def _step_times(step: Step, clock: Clock) -> tuple[float, list[float]]:
    """Seconds of a whole step; and of another step, what the clock says at its beginning and after each phase."""
    return timed(step.run, clock), step.run(clock)


def _step_row(name: str, step: Step, times: Sequence[tuple[float, list[float]]]) -> StepRow:
    setting, targets_ms = step.setting, 1e3 * step.targets_seconds
    whole = spread([seconds for seconds, _ in times])
    phases = zip(*([b - a for a, b in pairwise(marks)] for _, marks in times), strict=True)
    phases_ms = {phase: 1e3 * spread(seconds).median for phase, seconds in zip(PHASES, phases, strict=True)}
    ms = 1e3 * whole.median + targets_ms
    return {
        "provider": name,
        "status": "measured",
        "ms": ms,
        "iqr_ms": 1e3 * whole.iqr,
        "phases_ms": phases_ms | {"data": phases_ms["data"] + targets_ms},
        "images_per_second": 1e3 * setting.batch_size / ms,
        "peak_bytes": peak_bytes(step.run, step.device),
    }


def compare_losses(setting: Setting, providers: Sequence[str], rounds: int = 7) -> list[LossRow]:
    """The loss alone, of random logits, with its gradients: a row for each provider."""
    device = torch.device(setting.device)
    clock = clock_of(device)
    losses: dict[str, Loss] = {}

    def prepare(provider: str) -> Callable[[], torch.Tensor]:
        losses[provider] = Loss(setting, provider)
        return losses[provider].alone()

    calls, statuses = _prepared(prepare, lambda call: call(), providers)
    times = in_turns(
        {name: partial(timed, call, clock, repeats_of(call, clock)) for name, call in calls.items()}, rounds
    )
    values = {name: float(call()) for name, call in calls.items()}
    rows: list[LossRow] = []
    for name in providers:
        row: LossRow = {"provider": name, "status": statuses[name]}
        if name in calls:
            whole = spread(times[name])
            row |= {
                "status": _judged(name, values),
                "ms": 1e3 * whole.median,
                "iqr_ms": 1e3 * whole.iqr,
                "peak_bytes": peak_bytes(calls[name], device),
                "targets_ms": 1e3 * losses[name].targets_seconds,
                "value": values[name],
            }
        rows.append(row)
    return rows


def _judged(name: str, values: Mapping[str, float]) -> str:
    """The status of a loss that was measured: whether its value is that of the reference."""
    true = values.get("reference")
    if name in ("compiled", "fused") and true is not None and not abs(values[name] - true) <= SAME * abs(true):
        return f"wrong: {values[name]:.6g}, the reference has {true:.6g}"
    return "measured"


def largest(setting: Setting, provider: str, limit: int | None = None, at_most: int = 1024) -> int:
    """The largest batch with which a step fits into memory: the GPU's, or ``limit`` bytes of tensors.

    Raises:
        ValueError: there is no limit, on a device other than a GPU. Unavailable: the provider cannot run here.
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
) -> tuple[dict[str, T], dict[str, str]]:
    """What ``make`` returns for each provider that runs, after a warm-up; and the status of every provider."""
    free_memory()
    ready: dict[str, T] = {}
    statuses: dict[str, str] = {}
    for provider in providers:
        try:
            ready[provider] = make(provider)
            for _ in range(WARM_UP):
                call(ready[provider])
            statuses[provider] = "measured"
        except Unavailable as error:
            statuses[provider] = f"cannot run here: {error}"
        except ValueError:  # a setting that is wrong for all of them
            raise
        except Exception as error:  # torch.compile finds no compiler, say; the others go on
            statuses[provider] = f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            if is_out_of_memory(error):
                statuses[provider] = "out of memory"
        if statuses[provider] != "measured":
            ready.pop(provider, None)
            free_memory()
    return ready, statuses


def free_memory() -> None:
    torch.compiler.reset()  # else code for another setting would be compiled again, to fit both
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
