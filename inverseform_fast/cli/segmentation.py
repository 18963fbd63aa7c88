"""Commands that train and score segmentation models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from ..files import check_new_file
from ..segmentation.config import TrainConfig
from .options import DataOption, Device, data_options, options_of


@options_of(TrainConfig, boundary_head="--boundary-head/--headless")
def train(
    given: dict[str, Any],
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            "--config",
            help="JSON file of options, a recipe or the config.json of a run; the "
            "command line overrides it. Lines that begin with // are comments.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in the out folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in the out folder.")] = False,
) -> None:
    """Train a segmentation model, evaluate it and write a report. --resume needs no other option than --out."""
    from ..segmentation.checkpoint import CHECKPOINT, read_checkpoint
    from ..segmentation.processes import own_device, speaks
    from ..segmentation.training.run import train as run_training

    base = TrainConfig()
    if config:
        base = TrainConfig.from_file(config)
    elif resume:
        base = read_checkpoint(Path(given.get("out", base.out)) / CHECKPOINT).config
    settings = dataclasses.replace(base, **given)
    own_device(settings.device)  # before any work
    run_training(settings, resume=resume, overwrite=overwrite)
    if speaks():
        typer.echo(f"The report is in {Path(settings.out) / 'report.md'}")


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint file, or the folder of a run.")],
    data: Annotated[str | None, typer.Option(help="Data set; the one of the training if not given.")] = None,
    root: Annotated[
        str | None, typer.Option(help="Folder of the data set; for the data set of the training, as there by default.")
    ] = None,
    data_option: DataOption = None,
    split: Annotated[str | None, typer.Option(help="Split to score, such as test; as in training by default.")] = None,
    eval_size: Annotated[
        tuple[int, int] | None, typer.Option(help="Height and width at which to evaluate; as in training by default.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images per batch.")] = 8,
    workers: Annotated[int, typer.Option(help="Processes that load data; 0: this one loads them itself.")] = 0,
    device: Device = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the metrics to this JSON file.")] = None,
) -> None:
    """Score a checkpoint on whole images: mIoU, mBA and boundary F-scores."""
    from rich.console import Console
    from rich.table import Table

    from ..segmentation.checkpoint import load_checkpoint
    from ..segmentation.evaluation import evaluate_checkpoint
    from ..segmentation.markup import terminal
    from ..segmentation.processes import own_device, speaks
    from ..segmentation.report import metric_rows, write_metrics

    own_device(device)  # before any work
    if json_file:
        check_new_file(json_file, "json")
    loaded = load_checkpoint(checkpoint)
    metrics = evaluate_checkpoint(
        loaded,
        data,
        root,
        split,
        size=eval_size,
        batch_size=batch_size,
        workers=workers,
        device=device,
        data_options=data_options(data_option),
        console=Console(stderr=True),
    )
    if not speaks():
        return
    table = Table("metric", title=terminal(checkpoint), caption="shares in percent")
    table.add_column("value", justify="right")
    for row in metric_rows(metrics, loaded.tasks):
        table.add_row(*map(terminal, row))
    Console().print(table)
    if json_file:
        write_metrics(json_file, metrics)
