"""The report, the progress line and the picture of a run show what was measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from PIL import Image
from training_runs import run, tiny_config

from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.report import Row, comparison_table, headlines, metric_rows, summary, terms_text
from inverseform_fast.segmentation.tasks import SemanticTask
from inverseform_fast.segmentation.tasks.semantic import FALSE, MISSING, boundary_errors, colorize

TASKS = {name: SemanticTask(name=name, classes=("sky", "road")) for name in ("semantic", "parts")}
ONE = {"semantic": TASKS["semantic"]}


def test_the_report_says_what_was_measured(tmp_path: Path, net: str) -> None:
    config = tiny_config(tmp_path, net)
    metrics = run(config)
    out = Path(config.out)
    written = json.loads((out / "metrics.json").read_text())
    assert written == {name: None if math.isnan(value) else value for name, value in metrics.items()}
    report = (out / "report.md").read_text()
    assert f"| mIoU | {100 * metrics['miou']:.1f} |" in report
    assert f"| mBA | {100 * metrics['mba']:.1f} |" in report
    assert f"| IoU road | {100 * metrics['iou/road']:.1f} |" in report
    assert f"| steps | {config.steps} |" in report
    assert "](predictions.png)" in report
    assert "on 3 images of the val split. Shares are in percent. Void is left out;" in report
    with Image.open(out / "predictions.png") as picture:
        assert picture.width > 4 * 64
    assert TrainConfig.from_file(out / "config.json") == config


def test_metrics_are_shown_under_their_titles_the_headlines_first() -> None:
    metrics = {"miou": 0.5, "mba": math.nan, "odd": 2.0, "iou/sky": 0.25, "seconds_per_step": 0.1234}
    rows = [("mIoU", "50.0"), ("mBA", "-"), ("odd", "2.000"), ("seconds per step", "0.123"), ("IoU sky", "25.0")]
    assert metric_rows(metrics, ONE) == rows
    assert summary(metrics, ONE) == "mIoU 50.0, mBA -, odd 2.000, seconds per step 0.123"
    assert headlines(["parts/miou"], TASKS)["parts/miou"].title == "parts mIoU"
    table = comparison_table({"a": metrics, "b": metrics}, ["miou", "seconds_per_step"], ONE, "title")
    assert [str(column.header) for column in table.columns] == ["", "mIoU", "seconds per step"]
    assert list(table.columns[2].cells) == ["0.123", "0.123"]


def test_the_terms_of_the_loss_are_short_and_any_will_do() -> None:
    values = {"total": 1.0, "semantic/total": 1.0, "semantic/segmentation": 0.5, "semantic/boundary": 0.25}
    assert terms_text(values, ONE) == "L 1.000 xe 0.500 bxe 0.250"
    assert terms_text({"total": 1.0, "semantic/new": 2.0, "else": 3.0}, ONE) == "L 1.000 new 2.000 else 3.000"
    assert terms_text(values | {"parts/total": 2.0}, TASKS) == "L 1.000 semantic 1.000 xe 0.500 bxe 0.250 parts 2.000"


def test_a_task_is_drawn_as_truth_predictions_and_what_they_get_wrong() -> None:
    image = torch.full((3, 20, 30), 100, dtype=torch.uint8)
    target = torch.zeros(20, 30, dtype=torch.int64)
    target[:, 15:] = 1
    row = Row(image, {"semantic": target}, {"good": {"semantic": target}, "bad": {"semantic": 1 - target.roll(5, 1)}})
    task = TASKS["semantic"]
    panels = row.panels("semantic", task)
    assert list(panels) == ["truth", "good", "bad", "good:\nboundary errors", "bad:\nboundary errors"]
    assert torch.equal(panels["truth"], task.draw(target))
    assert torch.equal(panels["bad"], task.draw(1 - target.roll(5, 1)))
    wrong = {name: (picture.float().std(-1) > 0).any() for name, picture in panels.items()}
    assert wrong["bad:\nboundary errors"]
    assert not wrong["good:\nboundary errors"]


def test_the_picture_shows_boundary_errors_and_nothing_else() -> None:
    image = torch.full((3, 20, 30), 100, dtype=torch.uint8)
    target = torch.zeros(20, 30, dtype=torch.uint8)
    target[:, 15:] = 1
    target[5, 3] = 255
    moved = target.clone().masked_fill(target == 255, 0)
    moved[:8] = moved[:8].roll(-4, 1)
    moved[:8, -4:] = 1
    errors = boundary_errors(image, moved.long(), target, ignore_index=255)
    missing, false = ((errors == torch.tensor(color)).all(-1) for color in (MISSING, FALSE))
    assert missing.nonzero().tolist() == [[y, 14] for y in range(6)]  # row 6 is 1 px from the step below it
    assert false.nonzero()[:, 0].max() <= 8
    assert [[y, 10] for y in range(7)] == [[y, x] for y, x in false.nonzero().tolist() if y < 7]
    assert not (missing | false)[9:].any()
    colors = colorize(target, [(1, 2, 3), (4, 5, 6)])
    assert [colors[0, 0].tolist(), colors[0, 29].tolist(), colors[5, 3].tolist()] == [[1, 2, 3], [4, 5, 6], [0, 0, 0]]
