"""The command that trains a table of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Device, Threads


def reproduce(
    table: Annotated[str, typer.Argument(help="table1 (NYU-Depth-v2) or table3 (PASCAL).")],
    root: Annotated[str | None, typer.Option(help="Folder of the data set, NYUD_MT or PASCAL_MT.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; runs/TABLE if not given.")] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Two steps of each network on made scenes, to see that everything runs.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes that load data; 0: this one loads them itself.")] = 0,
    threads: Threads = None,
    device: Device = None,
) -> None:
    """Train a table of the paper by its recipes, or go on with it, and print it beside the paper's numbers."""
    from ..segmentation.processes import own_device
    from ..segmentation.reproduce import reproduce_table

    own_device(device)  # before any work
    reproduce_table(
        table, root, out or Path("runs") / table, tiny=tiny, device=device, workers=workers, threads=threads
    )
