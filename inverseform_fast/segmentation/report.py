"""A run leaves tables, ``metrics.json``, ``report.md`` and pictures for people to read."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from rich.table import Table
from torch import Tensor

from ..files import write_atomically
from .config import TrainConfig
from .datasets import SegmentationDataset
from .evaluation import predict
from .markup import markdown, picture_or_reason, printable, terminal
from .models import SegmentationModel
from .tasks import RGB, Headline, Task, metric_prefixes
from .transforms import EvalTransform

METRICS, REPORT, PICTURE = "metrics.json", "report.md", "predictions.png"
_PANEL = 3.0  # inches wide
_LONGEST_NAME = 40  # characters of a class in the legend
_RUN = {"seconds_per_step": Headline("seconds per step")}


def headlines(metrics: Collection[str], tasks: Mapping[str, Task]) -> dict[str, Headline]:
    """Returns how each metric is shown: those of the summary first, then the others in the order of the tasks."""
    known: dict[str, Headline] = {}
    for name, prefix in metric_prefixes(tasks).items():
        for metric, headline in tasks[name].headlines().items():
            title = f"{name} {headline.title}" if prefix else headline.title
            known[prefix + metric] = Headline(title, headline.scale, headline.digits, headline.in_summary)
    known |= {name: Headline(name) for name in metrics if name not in known} | _RUN
    shown = {name: headline for name, headline in known.items() if name in metrics}
    return dict(sorted(shown.items(), key=lambda item: not item[1].in_summary))


def summary(metrics: Mapping[str, float], tasks: Mapping[str, Task]) -> str:
    """Returns one line of text with the metrics of the summary."""
    shown = headlines(metrics, tasks).items()
    return ", ".join(f"{line.title} {line.text(metrics[name])}" for name, line in shown if line.in_summary)


def terms_text(values: Mapping[str, float], tasks: Mapping[str, Task]) -> str:
    """Returns one line of text with the terms of the loss.

    ``L`` stands for the total. If there are several tasks, a task's name stands for the task's own total.
    """

    def title(term: str) -> str:
        name, _, last = term.rpartition("/")
        if last == "total":
            return name or "L"
        return tasks[name].short_terms.get(last, last) if name in tasks else term

    shown = [term for term in values if len(tasks) > 1 or not term.endswith("/total")]
    return " ".join(f"{title(term)} {values[term]:.3f}" for term in shown)


def comparison_table(
    runs: Mapping[str, Mapping[str, float]], names: Sequence[str], tasks: Mapping[str, Task], title: str
) -> Table:
    """Makes a table with a row for each run and a column for each metric of ``names``."""
    lines = headlines(names, tasks)
    table = Table(title=terminal(title))
    table.add_column("")
    for name in names:
        table.add_column(terminal(lines[name].title), justify="right")
    for run, metrics in runs.items():
        table.add_row(terminal(run), *(lines[name].text(metrics[name]) for name in names))
    return table


def metric_rows(metrics: Mapping[str, float], tasks: Mapping[str, Task]) -> list[tuple[str, str]]:
    """Returns a (title, value) row for each metric, those of the summary first."""
    return [(line.title, line.text(metrics[name])) for name, line in headlines(metrics, tasks).items()]


def write_metrics(path: Path, metrics: Mapping[str, float]) -> None:
    """Writes the metrics as JSON, atomically; a NaN becomes null."""
    values = {name: None if math.isnan(value) else value for name, value in metrics.items()}
    write_atomically(path, lambda file: file.write(json.dumps(values, indent=2).encode()))


def write_report(
    out: Path,
    config: TrainConfig,
    model: SegmentationModel,
    dataset: SegmentationDataset,
    tasks: Mapping[str, Task],
    metrics: Mapping[str, float],
) -> None:
    """Writes ``metrics.json``, ``predictions.png`` (a few images of the data set) and ``report.md`` into ``out``.

    If the picture cannot be drawn, the report says why.
    """
    write_metrics(out / METRICS, metrics)
    gamma = f", gamma: {config.gamma:g}" if config.gamma else ""
    title = f"{config.model} with {config.backbone} on {config.data}, loss: {config.loss}{gamma}"

    def draw() -> None:
        rows = predict_rows(dataset, 4, {"prediction": model}, tasks, config.eval_size)
        draw_rows(out / PICTURE, rows, tasks, title)

    shown = picture_or_reason(out / PICTURE, "Images, truth and predictions", draw)
    values = "\n".join(f"| {markdown(metric)} | {value} |" for metric, value in metric_rows(metrics, tasks))
    options = "\n".join(f"| {name} | {markdown(value)} |" for name, value in config.to_dict().items())
    notes = "".join(f" {task.note}" for task in tasks.values() if task.note)
    text = (
        f"# {markdown(title)}\n\n"
        f"After {config.steps} steps, on {len(dataset)} images of the {markdown(config.eval_split)} split.{notes}\n\n"
        f"| metric | value |\n|---|---:|\n{values}\n\n"
        f"{shown}\n\n"
        f"## Configuration\n\n| option | value |\n|---|---|\n{options}\n"
    )
    write_atomically(out / REPORT, lambda file: file.write(text.encode()))


@dataclass
class Row:
    """One row of a picture: an image, the true maps and the predicted ones.

    Attributes:
        image: (3, H, W) uint8 RGB.
        targets: the true map of each task, by the task's name.
        predictions: the predicted maps, by the model's name and then by the task's.
    """

    image: Tensor
    targets: dict[str, Tensor]
    predictions: dict[str, dict[str, Tensor]]

    def panels(self, name: str, task: Task) -> dict[str, Tensor]:
        """Draws pictures (H, W, 3) uint8 by title: the truth of a task, each prediction, and its errors."""
        predictions = {model: maps[name] for model, maps in self.predictions.items()}
        panels = {"truth": task.draw(self.targets[name])}
        panels |= {model: task.draw(prediction) for model, prediction in predictions.items()}
        for model, prediction in predictions.items():
            errors = task.draw_errors(self.image, prediction, self.targets[name])
            panels |= {f"{model}:\n{title}": picture for title, picture in errors.items()}
        return panels


def predict_rows(
    dataset: SegmentationDataset,
    count: int,
    models: Mapping[str, SegmentationModel],
    tasks: Mapping[str, Task],
    size: tuple[int, int] | None = None,
) -> list[Row]:
    """Predicts ``count`` images, spread evenly over the data set, by each model.

    A model sees the images resized to ``size`` (height, width), or as they are if it is None; the maps have the size
    of the images.
    """
    count = min(count, len(dataset))
    rows = []
    for i in range(count):
        sample = dataset[i * len(dataset) // count]
        inputs = {name: value[None] for name, value in EvalTransform(dataset.tasks, size)(sample).items()}
        whole = EvalTransform(dataset.tasks)(sample)
        height, width = sample["image"].shape[-2:]
        predictions = {}
        for name, model in models.items():
            maps = predict(model, inputs, tasks, (height, width))
            predictions[name] = {task: values[0].cpu() for task, values in maps.items()}
        rows.append(Row(sample["image"].as_subclass(Tensor), {name: whole[name] for name in tasks}, predictions))
    return rows


def draw_rows(path: Path, rows: Sequence[Row], tasks: Mapping[str, Task], title: str) -> None:
    """Draws a PNG file with a row for each image: the image, its truth, its predictions and their errors."""
    lines = [_panels(row, tasks) for row in rows]
    height, width = rows[0].image.shape[-2:]
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=(_PANEL * len(lines[0]), _PANEL * height / width * len(rows) + 1.4), layout=layout)
    axes = figure.subplots(len(rows), len(lines[0]), squeeze=False)
    for line, panels in zip(axes, lines, strict=True):
        for axis, pixels in zip(line, panels.values(), strict=True):
            axis.imshow(pixels.numpy(), interpolation="nearest")
            axis.set_axis_off()
    for axis, text in zip(axes[0], lines[0], strict=True):
        axis.set_title(text, fontsize=13, parse_math=False)
    figure.suptitle(title, fontsize=15, parse_math=False)
    _draw_legend(figure, [key for task in tasks.values() for key in task.legend()])
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=100))


def _panels(row: Row, tasks: Mapping[str, Task]) -> dict[str, Tensor]:
    """All pictures of a row, by title; a title names the task if there are several tasks."""
    panels = {"image": row.image.permute(1, 2, 0)}
    for name, task in tasks.items():
        prefix = f"{name}: " if len(tasks) > 1 else ""
        panels |= {f"{prefix}{title}": picture for title, picture in row.panels(name, task).items()}
    return panels


def _draw_legend(figure: Figure, keys: Sequence[tuple[str, RGB]]) -> None:
    if not keys:
        return
    names = [_short(name) for name, _ in keys]
    patches = [Patch(color=(r / 255, g / 255, b / 255), label="name") for _, (r, g, b) in keys]
    longest = max(map(len, names))
    inches = 1.7 if longest <= 16 else 0.8 + 0.1 * longest  # the width of an entry, about
    lines = math.ceil(len(patches) * inches / figure.get_figwidth())
    columns = math.ceil(len(patches) / lines)
    legend = figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize=12)
    for text, name in zip(legend.get_texts(), names, strict=True):  # the legend leaves out a patch labelled _name
        text.set(text=name, parse_math=False)


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."
