"""All six tasks of made scenes are trained at once, evaluated and reported."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_runs import assert_same_end, run, scalars

from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.evaluation import evaluate_checkpoint, load_model

NAMES = ["semantic", "parts", "edges", "saliency", "normals", "depth"]
WEIGHTS = {"semantic": 1.0, "parts": 2.0, "edges": 50.0, "saliency": 5.0, "normals": 10.0, "depth": 1.0}
METRICS = {
    "parts": ["miou", "pixel_accuracy"],
    "edges": ["odsf"],
    "saliency": ["miou", "maxf"],
    "normals": ["mean", "median", "rmse", "within_11.25", "within_22.5", "within_30"],
    "depth": ["rmse", "log_rmse"],
}


def config(out: Path) -> TrainConfig:
    return TrainConfig(
        data_options={"size": [48, 64], "length": 3, "tasks": NAMES},
        tasks=WEIGHTS,
        loss="ce",
        gamma=0.3,
        crop=(32, 48),
        steps=3,
        batch_size=2,
        warmup=1,
        log_every=1,
        checkpoint_every=2,
        threads=1,
        device="cpu",
        out=str(out),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, dict[str, float]]:
    run_config = config(tmp_path_factory.mktemp("all"))
    return run_config, run(run_config)


def test_the_total_is_the_weighted_sum_of_all_tasks(trained: tuple[TrainConfig, dict[str, float]]) -> None:
    logs = scalars(trained[0])
    for step in (1, 2, 3):
        parts = [weight * logs[f"loss/{name}/total"][step] for name, weight in WEIGHTS.items()]
        assert all(part > 0 for part in parts)
        assert logs["loss/total"][step] == pytest.approx(sum(parts), rel=1e-5)
        expected = 50 * logs["loss/edges/bce"][step] + 0.3 * logs["loss/edges/inverseform"][step]
        assert 50 * logs["loss/edges/total"][step] == pytest.approx(expected, rel=1e-5)


def test_every_task_has_its_metrics_in_the_report(trained: tuple[TrainConfig, dict[str, float]]) -> None:
    run_config, metrics = trained
    for task, names in METRICS.items():
        assert all(math.isfinite(metrics[f"{task}/{name}"]) for name in names)
    assert "miou" in metrics
    report = (Path(run_config.out) / "report.md").read_text()
    for title in ("mIoU", "parts mIoU", "edges odsF", "saliency maxF", "normals mean angle", "depth RMSE"):
        assert len(re.findall(rf"^\| {title} \| [\d.]+ \|$", report, re.MULTILINE)) == 1
    assert f"| depth RMSE | {metrics['depth/rmse']:.3f} |" in report


def test_the_picture_shows_truth_and_prediction_of_every_task(trained: tuple[TrainConfig, dict[str, float]]) -> None:
    with Image.open(Path(trained[0].out) / "predictions.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    panels = 1 + 2 * len(NAMES) + 1  # the image, and the boundary errors of the classes
    assert pixels.shape[1] == pytest.approx(300 * panels, abs=5)
    for panel in np.array_split(pixels[200:-200], panels, axis=1)[:3]:
        assert panel.std() > 5


def test_the_run_is_evaluated_again_to_the_same_numbers(
    trained: tuple[TrainConfig, dict[str, float]], tmp_path: Path
) -> None:
    run_config, metrics = trained
    _, checkpoint = load_model(Path(run_config.out))
    assert list(checkpoint.tasks) == NAMES
    again = evaluate_checkpoint(checkpoint, device="cpu", batch_size=2)
    assert again == pytest.approx({k: v for k, v in metrics.items() if k != "seconds_per_step"}, nan_ok=True)
    assert json.loads((Path(run_config.out) / "metrics.json").read_text())["edges/odsf"] == metrics["edges/odsf"]


def test_the_run_is_repeated_bit_for_bit(trained: tuple[TrainConfig, dict[str, float]], tmp_path: Path) -> None:
    again = config(tmp_path)
    run(again)
    assert_same_end(trained[0], again)
