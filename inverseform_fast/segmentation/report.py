"""What a run leaves for people: tables, ``metrics.json``, ``report.md`` and pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from rich.table import Table
from torch import Tensor, nn

from ..files import write_atomically
from .config import TrainConfig
from .datasets import SegmentationDataset
from .evaluation import predict
from .metrics import class_boundaries, dilate, disk_half_widths
from .transforms import eval_transform

METRICS, REPORT, PICTURE = "metrics.json", "report.md", "predictions.png"
HEADLINES = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mba": "mBA",
    "boundary_f_1px": "boundary F 1 px",
    "boundary_f_3px": "boundary F 3 px",
    "boundary_f_5px": "boundary F 5 px",
    "boundary_iou": "Boundary IoU",
    "seconds_per_step": "seconds per step",
}
MISSING, FALSE = (
    (230, 60, 20),
    (30, 90, 230),
)  # orange red and blue: far apart for every common kind of colour blindness


def format_metric(name: str, value: float) -> str:
    """A metric for people: shares in percent, times in seconds, and a dash for what is not defined."""
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if name == "seconds_per_step" else f"{100 * value:.1f}"


def summary(metrics: Mapping[str, float]) -> str:
    """The headline metrics in one line."""
    return ", ".join(f"{HEADLINES[name]} {format_metric(name, metrics[name])}" for name in HEADLINES if name in metrics)


def comparison_table(runs: Mapping[str, Mapping[str, float]], names: Sequence[str], title: str) -> Table:
    """A table with a row per run and a column per metric; shares are in percent."""
    table = Table(title=title)
    table.add_column("")
    for name in names:
        table.add_column(HEADLINES[name], justify="right")
    for run, metrics in runs.items():
        table.add_row(run, *(format_metric(name, metrics[name]) for name in names))
    return table


def metric_rows(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """All metrics as (what, value) for a table of two columns, the headlines first."""
    headlines = [(HEADLINES[name], format_metric(name, metrics[name])) for name in HEADLINES if name in metrics]
    classes = [
        (f"IoU {name.removeprefix('iou/')}", format_metric(name, value))
        for name, value in metrics.items()
        if name.startswith("iou/")
    ]
    return headlines + classes


def write_metrics(path: Path, metrics: Mapping[str, float]) -> None:
    """Writes the metrics as JSON, atomically; what is not defined becomes null."""
    values = {name: None if math.isnan(value) else value for name, value in metrics.items()}
    write_atomically(path, lambda file: file.write(json.dumps(values, indent=2).encode()))


def write_report(
    out: Path, config: TrainConfig, model: nn.Module, dataset: SegmentationDataset, metrics: Mapping[str, float]
) -> None:
    """Writes ``metrics.json``, ``predictions.png`` (a few images of the data set) and ``report.md`` into ``out``."""
    write_metrics(out / METRICS, metrics)
    rows = predict_rows(dataset, 4, {"prediction": model}, config.eval_size)
    draw_rows(out / PICTURE, rows, dataset, title=f"{config.backbone} on {config.data}, loss: {config.loss}")
    values = "\n".join(f"| {what} | {value} |" for what, value in metric_rows(metrics))
    options = "\n".join(f"| {name} | {value} |" for name, value in config.to_dict().items())
    text = (
        f"# {config.backbone} on {config.data}, loss: {config.loss}\n\n"
        f"After {config.steps} steps, on {len(dataset)} images of the {config.eval_split} split; shares in percent. "
        "Void is left out; a class in neither truth nor prediction (-) is left out of the mean.\n\n"
        f"| metric | value |\n|---|---:|\n{values}\n\n"
        f"![Image, truth, prediction and boundary errors]({PICTURE})\n\n"
        f"## Configuration\n\n| option | value |\n|---|---|\n{options}\n"
    )
    write_atomically(out / REPORT, lambda file: file.write(text.encode()))


@dataclass
class Row:
    """One image of a picture: (3, H, W) uint8, its labels (H, W), and predicted labels (H, W) by name."""

    image: Tensor
    target: Tensor
    predictions: dict[str, Tensor]


def predict_rows(
    dataset: SegmentationDataset, count: int, models: Mapping[str, nn.Module], size: tuple[int, int] | None = None
) -> list[Row]:
    """Images evenly spread over the data set with the predictions of each model, which sees them at ``size``."""
    count = min(count, len(dataset))
    return [_predict_row(dataset[i * len(dataset) // count], models, size) for i in range(count)]


def _predict_row(sample: dict[str, Tensor], models: Mapping[str, nn.Module], size: tuple[int, int] | None) -> Row:
    image, target = (sample[name].as_subclass(Tensor) for name in ("image", "segmentation"))
    inputs = eval_transform(size)(sample)["image"][None]
    predictions = {}
    for name, model in models.items():
        device = next(model.parameters()).device
        predictions[name] = predict(model, inputs.to(device), (target.shape[0], target.shape[1]))[0].cpu()
    return Row(image, target, predictions)


def colorize(labels: Tensor, colors: Sequence[tuple[int, int, int]]) -> Tensor:
    """(H, W) class ids to (H, W, 3) uint8; what has no colour, void that is, is black."""
    palette = torch.zeros(256, 3, dtype=torch.uint8)
    palette[: len(colors)] = torch.tensor(colors, dtype=torch.uint8)
    return palette[labels.long()]


def boundary_errors(image: Tensor, prediction: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """The image (3, H, W) uint8 in light grey, with the boundary pixels that the F-score at 1 px counts as wrong.

    Orange: true, but no predicted boundary of the same class within 1 px. Blue: predicted, but no true one.
    """
    grey = image.float().mean(0)
    picture = (175 + 0.3 * grey).to(torch.uint8)[..., None].repeat(1, 1, 3)
    valid = target != ignore_index
    true, predicted = (class_boundaries(labels, valid, 256) for labels in (target, prediction))
    disk = disk_half_widths(1)
    for mine, others, color in ((predicted, true, FALSE), (true, predicted, MISSING)):
        wrong = mine & ~dilate(others, disk, torch.bitwise_or)
        picture[wrong.any(0)] = torch.tensor(color, dtype=torch.uint8)
    return picture


def draw_rows(path: Path, rows: Sequence[Row], dataset: SegmentationDataset, title: str) -> None:
    """Draws image, truth, predictions and their boundary errors side by side, a row per image, into a PNG file."""
    names = list(rows[0].predictions)
    titles = ["image", "truth", *names, *(f"{name}:\nboundary errors" for name in names)]
    height, width = rows[0].target.shape[-2:]
    panel = 3.0  # inches wide
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=(panel * len(titles), panel * height / width * len(rows) + 1.4), layout=layout)
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        panels = [row.image.permute(1, 2, 0), colorize(row.target, dataset.colors)]
        panels += [colorize(p, dataset.colors) for p in row.predictions.values()]
        panels += [boundary_errors(row.image, p, row.target, dataset.ignore_index) for p in row.predictions.values()]
        for axis, pixels in zip(line, panels, strict=True):
            axis.imshow(pixels.numpy(), interpolation="nearest")
            axis.set_axis_off()
    for axis, text in zip(axes[0], titles, strict=True):
        axis.set_title(text, fontsize=13)
    figure.suptitle(title, fontsize=15)
    keys = list(zip(dataset.classes, dataset.colors, strict=True))
    keys += [("missing boundary", MISSING), ("false boundary", FALSE)]
    patches = [Patch(color=(r / 255, g / 255, b / 255), label=name) for name, (r, g, b) in keys]
    lines = math.ceil(len(patches) * 1.7 / figure.get_figwidth())  # an entry is about 1.7 inches wide
    columns = math.ceil(len(patches) / lines)
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize=12)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=100))
