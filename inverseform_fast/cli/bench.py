"""The command that measures what the loss costs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..bench.setting import Setting
from ..devices import choose_device
from ..files import write_atomically
from .options import Device, Threads, options_of, use_threads


@options_of(Setting, headless="--headless")
def bench(
    given: dict[str, Any],
    *,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            help="stock, release, reference, compiled or fused; repeatable. By default all, but for compiled on a CPU."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Turns that each provider takes.")] = 5,
    memory_gib: Annotated[
        float | None, typer.Option(help="Find the largest batch whose tensors fit into this; 0: into the GPU.")
    ] = None,
    device: Device = None,
    threads: Threads = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file, too.")] = None,
) -> None:
    """Measure what the loss costs in a training step on this machine, beside stock cross-entropy and the release."""
    from rich.console import Console

    from ..bench.report import bench as measure
    from ..bench.report import table

    setting = Setting(**given, device=str(choose_device(device)))
    use_threads(threads)
    rows = measure(setting, provider, rounds, memory_gib)
    Console().print(table(setting, rows))
    if json_file:
        text = json.dumps({"setting": dataclasses.asdict(setting), "rows": rows}, indent=1)
        write_atomically(json_file, lambda file: file.write(text.encode()))
