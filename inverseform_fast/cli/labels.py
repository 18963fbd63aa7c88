"""The command that puts the labels of a data set in place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..devices import choose_device
from .options import DataOption, Device, Threads, data_options, use_threads


def align(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or its checkpoint file.")],
    out: Annotated[Path, typer.Option(help="New folder for the moved labels and the report.")],
    data: Annotated[str | None, typer.Option(help="Data set; the one of the training if not given.")] = None,
    root: Annotated[
        str | None, typer.Option(help="Folder of the data set; for the data set of the training, as there by default.")
    ] = None,
    data_option: DataOption = None,
    split: Annotated[str | None, typer.Option(help="Split to move; the one trained on if not given.")] = None,
    net: Annotated[
        str | None,
        typer.Option(
            help="Inverse-transformation network to read displacements by: predictions, compact, or a weight file. "
            "If not given, the predicted classes say where labels belong, which is better and faster."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that holds files.")] = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Move a data set's labels to where a trained model sees their boundaries, and rank the images by how far.

    The moved labels are written into --out. The originals stay as they are.
    """
    from ..segmentation.label_files import align_label_files

    choose_device(device)  # before the data set is made
    use_threads(threads)
    shifts = align_label_files(
        run,
        out,
        data,
        root,
        split,
        net=net,
        overwrite=overwrite,
        device=device,
        data_options=data_options(data_option),
    )
    moved = sum(shift.tiles_moved > 0 for shift in shifts)
    typer.echo(f"The labels of {moved} of {len(shifts)} images were moved. The report is in {out / 'report.md'}")
