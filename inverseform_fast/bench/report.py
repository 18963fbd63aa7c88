"""All figures of one setting, as rows and as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypedDict

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from ..devices import choose_device
from ..segmentation.progress import say
from .measure import LossRow, StepRow, compare_losses, compare_steps, largest
from .setting import PROVIDERS, Setting
from .steps import PHASES

CAPTION = (
    "Times are medians ± interquartile ranges. MiB is the peak memory of tensors.\n"
    "Excluded: weights, optimizer state, and the C++ kernels' scratch memory (4 MB per thread)."
)


class BenchRow(TypedDict):
    provider: str
    step: StepRow
    loss: LossRow
    largest_batch: int | None  # None if it was not asked for


def bench(
    setting: Setting,
    providers: Sequence[str] | None = None,
    rounds: int = 5,
    memory_gib: float | None = None,
    *,
    console: Console | None = None,
) -> list[BenchRow]:
    """All figures of a setting, a row for each provider.

    Args:
        providers: some of ``PROVIDERS``. None means all, but without ``compiled`` on a CPU, where compiling takes
            minutes.
        memory_gib: memory that the largest batch's tensors must fit into; 0 means the GPU's, and None does not look
            for the largest batch.
        console: says what is being measured; None says nothing.

    Raises:
        ValueError: a bad provider, device or number of rounds; ``memory_gib`` below 0, or 0 without a GPU.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    on_gpu = choose_device(setting.device).type == "cuda"
    if memory_gib is not None and not (0 < memory_gib < math.inf or (on_gpu and memory_gib == 0)):
        raise ValueError(f"memory_gib must be above 0, or 0 on a GPU, got {memory_gib} on device {setting.device!r}")
    providers = list(providers or (name for name in PROVIDERS if on_gpu or name != "compiled"))
    limit = int(memory_gib * 2**30) if memory_gib else None

    console = console or Console(quiet=True)

    def largest_batch(step: StepRow) -> int | None:
        if memory_gib is None or step["status"] != "measured":
            return None
        say(console, f"looking for the largest batch of {step['provider']}")
        return largest(setting, step["provider"], limit)

    say(console, f"measuring training steps of {', '.join(providers)}")
    steps = compare_steps(setting, providers, rounds)
    say(console, "measuring the losses alone")
    losses = compare_losses(setting, providers, rounds)
    return [
        {"provider": step["provider"], "step": step, "loss": loss, "largest_batch": largest_batch(step)}
        for step, loss in zip(steps, losses, strict=True)
    ]


def table(setting: Setting, rows: Sequence[BenchRow]) -> Table:
    """A column for each provider that ran; the caption says why the others did not."""
    height, width = setting.crop
    title = (
        f"{setting.backbone} on {setting.device}: {setting.batch_size} x {height}x{width}, {setting.classes} classes"
    )
    ran = [row for row in rows if row["step"]["status"] == row["loss"]["status"] == "measured"]
    notes = [CAPTION]
    for row in rows:
        if row not in ran:
            status = next(s for s in (row["step"]["status"], row["loss"]["status"]) if s != "measured")
            notes.append(f"{row['provider']}: {status}")
    result = Table(
        "", *(Column(row["provider"], justify="right") for row in ran), title=title, caption=escape("\n".join(notes))
    )
    for name, cell in _LINES.items():
        result.add_row(name, *(cell(row) for row in ran))
    return result


def _milliseconds(row: StepRow | LossRow) -> str:
    return f"{row['ms']:.1f} ± {row['iqr_ms']:.1f}"


def _phase(name: str, row: BenchRow) -> str:
    return f"{row['step']['phases_ms'][name]:.1f}"


_LINES: dict[str, Callable[[BenchRow], str]] = {
    "step, ms": lambda row: _milliseconds(row["step"]),
    **{f"  {phase}": partial(_phase, phase) for phase in PHASES},
    "images/s": lambda row: f"{row['step']['images_per_second']:.2f}",
    "step, MiB": lambda row: f"{row['step']['peak_bytes'] / 2**20:.0f}",
    "loss alone, ms": lambda row: _milliseconds(row["loss"]),
    "its targets, ms": lambda row: f"{row['loss']['targets_ms']:.1f}",
    "loss alone, MiB": lambda row: f"{row['loss']['peak_bytes'] / 2**20:.0f}",
    "largest batch": lambda row: str(row["largest_batch"] if row["largest_batch"] is not None else "-"),
}
