"""``python -m inverseform_fast.segmentation.demo`` trains one small model with cross-entropy and with our loss."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Literal

from rich.console import Console

from ..errors import one_line
from ..files import locked
from .config import TrainConfig
from .evaluation import load_model
from .progress import say
from .report import comparison_table, draw_rows, predict_rows
from .training.run import open_datasets, train

PICTURE = "demo.png"
_RUNS: dict[str, Literal["ce", "boundary"]] = {"cross-entropy": "ce", "BoundaryAwareLoss": "boundary"}
_COLUMNS = ("miou", "mba", "boundary_f_1px", "boundary_f_3px", "seconds_per_step")


def run_demo(config: TrainConfig, console: Console) -> Path:
    """Trains both runs into folders of ``config.out``, prints the table, and returns the path of the picture."""
    with locked(Path(config.out)):
        return _run_demo(config, console)


def _run_demo(config: TrainConfig, console: Console) -> Path:
    out = Path(config.out)
    metrics, models = {}, {}
    say(console, "making the scenes")
    datasets = open_datasets(config)
    for name, loss in _RUNS.items():
        console.rule(name)
        run = dataclasses.replace(config, loss=loss, out=str(out / loss))
        metrics[name] = train(run, overwrite=True, datasets=datasets, console=console)
        models[name] = load_model(out / loss)[0]
    dataset = datasets[1]
    rows = predict_rows(dataset, 3, models, dataset.tasks)
    title = "The same small model and schedule, on procedural scenes it never saw"
    draw_rows(out / PICTURE, rows, dataset.tasks, title)
    caption = f"{len(dataset)} unseen scenes, shares in percent"
    console.print(comparison_table(metrics, _COLUMNS, dataset.tasks, title=caption))
    return out / PICTURE


def main() -> None:
    """The command line of the demo; ``make demo`` runs it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/demo", help="folder of the results; an earlier demo in it is replaced")
    parser.add_argument("--steps", type=int, default=300, help="training steps of each run")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    arguments = parser.parse_args()
    console = Console()
    with one_line():
        config = TrainConfig(
            out=arguments.out, steps=arguments.steps, threads=arguments.threads, checkpoint_every=arguments.steps
        )
        picture = run_demo(config, console)
        say(console, f"Picture: {picture}")
        say(console, "Reports: " + ", ".join(str(picture.parent / loss / "report.md") for loss in _RUNS.values()))


if __name__ == "__main__":
    main()
