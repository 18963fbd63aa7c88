"""A table of the paper is trained row by row, and shown beside the paper's numbers."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from ..checks import check_choice
from ..files import locked, write_atomically
from .checkpoint import CHECKPOINT
from .config import TrainConfig
from .markup import markdown, picture_or_reason
from .metrics.multitask import delta_m
from .models import build_model
from .paper_tables import RECIPES, TABLES, PaperTable, Row
from .progress import say
from .report import METRICS
from .tasks import task_from_dict
from .training.run import open_datasets, train

TABLE, FIGURE = "table.md", "figure5.png"
_TINY: dict[str, Any] = {
    "data": "scenes",
    "pretrained": False,
    "crop": (64, 64),
    "eval_size": None,
    "batch_size": 2,
    "steps": 2,
    "decay_every": 1,
    "log_every": 1,
    "checkpoint_every": 2,
}
_SCENES = {"size": [64, 64], "length": 4}


class Result(NamedTuple):
    """What became of a row.

    Attributes:
        values: a number for each column, as the paper prints it, and Delta_m if the table has it; NaN where none is.
        parameters: the number of trainable parameters of the network.
        multiply_adds: those of an image of the size of the recipe's crop, or of one task where the network takes tasks
            one after another.
    """

    values: tuple[float, ...]
    parameters: int
    multiply_adds: int


def reproduce_table(
    name: str,
    root: str | None,
    out: Path,
    *,
    tiny: bool = False,
    device: str | None = None,
    workers: int = 0,
    threads: int | None = None,
    console: Console | None = None,
) -> list[Result]:
    """Trains what is missing of a table, and writes ``table.md``, and ``figure5.png`` for Table 1, into ``out``.

    A row has the folder of its recipe's name in ``out``. A run that is complete there is not repeated, and one that was
    stopped goes on.

    Args:
        name: a key of ``TABLES``.
        root: the folder of the data set; not used if ``tiny`` is set.
        out: the folder of the results.
        tiny: train each network for two steps on made scenes of 64 x 64 pixels, to see that everything runs.
        device, workers, threads: as in ``TrainConfig``.
        console: shows the progress.

    Raises:
        ValueError: the table is unknown, or a folder holds a run of other options.
        FileNotFoundError: the data are missing.
        BlockingIOError: another process is working in a folder.
    """
    check_choice(name, "table", tuple(TABLES))
    table, console = TABLES[name], console or Console()
    own: dict[str, Any] = {"root": None if tiny else root, "device": device, "workers": workers, "threads": threads}

    def config_of(recipe: str, task: str | None = None) -> TrainConfig:
        folder = out / recipe / (task or "")
        return dataclasses.replace(recipe_config(name, recipe, task, tiny=tiny), out=str(folder), **own)

    def metrics_of(recipe: str, task: str | None = None) -> dict[str, float]:
        config = config_of(recipe, task)
        metrics = _metrics_of(config, console)
        if tiny:  # the checkpoints of Table 3 take 14 GB, and nobody needs them
            (Path(config.out) / CHECKPOINT).unlink(missing_ok=True)
        return metrics

    with locked(out):
        for row in table.rows:  # what is missing is said now, and not after the first row has trained for days
            if not _is_complete(config := config_of(row.recipe)):
                open_datasets(config)
        results = []
        for row in table.rows:
            metrics = metrics_of(row.recipe)
            values = [column.value(metrics, "semantic") for column in table.columns]
            if row.single:
                singles = [column.value(metrics_of(row.single, column.task), column.task) for column in table.columns]
                values.append(_gain(table, values, singles))
            results.append(Result(tuple(values), *_size(recipe_config(name, row.recipe), table.classes)))
        _write(out, table, results, tiny, console)
    return results


def recipe_config(table: str, recipe: str, task: str | None = None, *, tiny: bool = False) -> TrainConfig:
    """Returns the options that a recipe says.

    Args:
        table: the folder of the recipe.
        recipe: its name.
        task: the one to learn, if it is a recipe of networks of one task. Parts are learned from images with people.
        tiny: replace the data set by made scenes, and train for two steps.

    Raises:
        FileNotFoundError: there is no such recipe.
    """
    config = TrainConfig.from_file(RECIPES / table / f"{recipe}.json")
    if task:
        options: dict[str, Any] = {"tasks": [task]} | ({"people": True} if task == "parts" else {})
        config = dataclasses.replace(config, data_options=options)
    if tiny:
        config = dataclasses.replace(config, data_options=_SCENES | {"tasks": config.data_options["tasks"]}, **_TINY)
    return config


def _is_complete(config: TrainConfig) -> bool:
    """Whether the folder of a run holds all of it.

    Raises:
        ValueError: that run has other options.
    """
    out = Path(config.out)
    if not (out / METRICS).exists():
        return False
    if changes := TrainConfig.from_file(out / "config.json").difference(config):
        text = "; ".join(f"{field} is {old!r} there, not {new!r}" for field, (old, new) in changes.items())
        raise ValueError(f"out must hold runs of these options, but {out} has others: {text}")
    return True


def _metrics_of(config: TrainConfig, console: Console) -> dict[str, float]:
    """Returns the metrics of a run, which is trained, or trained to its end, if it is not complete."""
    out = Path(config.out)
    if not _is_complete(config):
        say(console, f"training {out}")
        return train(config, resume=(out / CHECKPOINT).exists(), console=console)
    metrics = json.loads((out / METRICS).read_text())
    return {metric: math.nan if value is None else value for metric, value in metrics.items()}


def _gain(table: PaperTable, values: Sequence[float], singles: Sequence[float]) -> float:
    """Returns Delta_m; NaN where a score is not defined, or a network of one task has learned nothing."""
    if not all(single > 0 and not math.isnan(value) for value, single in zip(values, singles, strict=True)):
        return math.nan
    titles = [column.title for column in table.columns]
    errors = [column.title for column in table.columns if column.lower_is_better]
    return delta_m(dict(zip(titles, values, strict=True)), dict(zip(titles, singles, strict=True)), errors)


def _size(config: TrainConfig, classes: Sequence[str]) -> tuple[int, int]:
    """Returns the number of trainable parameters and of multiply-adds of a recipe's network."""
    fields = {"semantic": {"classes": tuple(classes)}}
    tasks = {name: task_from_dict({"type": name, **fields.get(name, {})}) for name in config.data_options["tasks"]}
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = build_model(
            config.model, config.backbone, tasks, boundary_head=config.boundary_head, **config.model_options
        ).eval()
        model({"image": torch.empty(1, 3, *config.crop)}, *list(tasks)[: model.takes_turns])
    return sum(p.numel() for p in model.parameters() if p.requires_grad), counter.get_total_flops() // 2


def _write(out: Path, table: PaperTable, results: Sequence[Result], tiny: bool, console: Console) -> None:
    titles = [column.title for column in table.columns] + ["Delta_m"] * (table.rows[0].single is not None)
    head = ["network", *titles, "parameters, 10^6", "multiply-adds, 10^9"]
    lines = [
        f"# {table.title}\n",
        "The paper's numbers are in brackets. Shares are in percent, and angles in degrees.",
        "After two steps on made scenes, the numbers mean nothing.\n" if tiny else "",
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
    ]
    for row, result in zip(table.rows, results, strict=True):
        numbers = [
            f"{'-' if math.isnan(value) else f'{value:.2f}'} ({paper:.2f})"
            for value, paper in zip(result.values, row.paper, strict=True)
        ]
        sizes = [f"{result.parameters / 1e6:.2f}", f"{result.multiply_adds / 1e9:.2f}"]
        lines.append(f"| {' | '.join([markdown(row.title), *numbers, *sizes])} |")
    if table is TABLES["table1"]:
        shown = picture_or_reason(out / FIGURE, "Figure 5", lambda: _draw(out / FIGURE, table.rows, results))
        lines += ["", shown]
    text = "\n".join(lines) + "\n"
    write_atomically(out / TABLE, lambda file: file.write(text.encode()))
    console.print(text, markup=False, soft_wrap=True)


def _draw(path: Path, rows: Sequence[Row], results: Sequence[Result]) -> None:
    """Draws the paper's Figure 5: mIoU against the size of the networks."""
    figure = Figure((11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for row, result in zip(rows, results, strict=True):
        marker = "*" if "InverseForm" in row.title else "o"
        panels[0].scatter(result.parameters / 1e6, result.values[0], marker=marker, label=row.title)
        panels[1].scatter(result.multiply_adds / 1e9, result.values[0], marker=marker)
    panels[0].set(xlabel="parameters, 10^6", ylabel="mIoU, percent")
    panels[1].set(xlabel="multiply-adds, 10^9")
    figure.legend(loc="outside right upper", fontsize="small")
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
