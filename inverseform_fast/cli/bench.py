"""The command ``bench`` measures what the loss costs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..bench.setting import Setting
from ..devices import choose_device
from ..files import check_new_file, write_atomically
from .options import Device, Threads, options_of, use_threads


@options_of(Setting, headless="--headless")
def bench(
    given: dict[str, Any],
    *,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            help="Whose loss: stock (cross-entropy), release (the paper's code), or ours as reference, compiled or "
            "fused; repeatable. All by default, except compiled on a CPU."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often each provider is measured; they take turns.")] = 5,
    memory_gib: Annotated[
        float | None,
        typer.Option(help="Also find the largest batch whose tensors fit into so many GiB; 0: into the GPU's memory."),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this JSON file.")] = None,
) -> None:
    """Measure what the loss costs in a training step on this machine, beside stock cross-entropy and the release."""
    from rich.console import Console

    from ..bench.report import bench as measure
    from ..bench.report import table

    setting = Setting(**given, device=str(choose_device(device)))
    use_threads(threads)
    if json_file:
        check_new_file(json_file, "json")
    rows = measure(setting, provider, rounds, memory_gib, console=Console(stderr=True))
    Console().print(table(setting, rows))
    if json_file:
        text = json.dumps({"setting": dataclasses.asdict(setting), "rows": rows}, indent=1)
        write_atomically(json_file, lambda file: file.write(text.encode()))
