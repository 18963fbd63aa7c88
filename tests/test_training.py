"""Training learns, may be stopped at any moment, and neither loses nor mixes up results."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from training_runs import assert_same_end, interrupted_scenes, run, scalars, tiny_config

from inverseform_fast.segmentation import report
from inverseform_fast.segmentation.checkpoint import load_checkpoint
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import Scenes
from inverseform_fast.segmentation.models import MODELS, build_model
from inverseform_fast.segmentation.models.pyramid import PyramidSegmenter
from inverseform_fast.segmentation.tasks import SemanticTask


@pytest.fixture
def config(tmp_path: Path, net: str) -> TrainConfig:
    return tiny_config(tmp_path, net)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, net: str) -> tuple[TrainConfig, dict[str, float]]:
    """A finished run, which no test may change, and its metrics."""
    config = tiny_config(tmp_path_factory.mktemp("finished"), net)
    return config, run(config)


@pytest.fixture
def copied(finished: tuple[TrainConfig, dict[str, float]], tmp_path: Path) -> TrainConfig:
    """A copy of the finished run, which a test may change."""
    config, _ = finished
    shutil.copytree(config.out, tmp_path / "copied")
    return dataclasses.replace(config, out=str(tmp_path / "copied"))


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture takes longer than a training of four steps; tests/test_report.py looks at one."""
    monkeypatch.setattr(report, "draw_rows", lambda *_: None)


def test_a_killed_training_resumes_to_the_very_same_weights(config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, steps=20, checkpoint_every=2)
    checkpoint = Path(config.out) / "last.pt"
    process = multiprocessing.get_context("spawn").Process(target=run, args=(config,))
    process.start()
    while not checkpoint.exists() and process.is_alive():
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert 0 < load_checkpoint(checkpoint).step < config.steps

    run(config, resume=True)
    straight = dataclasses.replace(config, out=str(tmp_path / "straight"))
    run(straight)
    assert_same_end(config, straight)


def test_a_resumed_training_repeats_the_randomness_of_the_model(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithDropout(PyramidSegmenter):
        def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: F.dropout(x, 0.5, self.training) for name, x in super().forward(inputs).items()}

    monkeypatch.setitem(MODELS, "dropout", WithDropout)
    stopped = dataclasses.replace(config, model="dropout", checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, datasets=interrupted_scenes(stopped, batches=2))
    run(stopped, resume=True)
    straight = dataclasses.replace(stopped, out=str(tmp_path / "straight"))
    run(straight)
    assert_same_end(stopped, straight)


def test_the_number_of_workers_changes_nothing(config: TrainConfig, tmp_path: Path) -> None:
    runs = [dataclasses.replace(config, workers=w, out=str(tmp_path / f"workers{w}")) for w in (0, 2)]
    metrics = [run(config) for config in runs]
    assert_same_end(*runs)
    assert metrics[0]["miou"] == metrics[1]["miou"]


@pytest.mark.parametrize("loss", ["ce", "boundary", "inverseform"])
@pytest.mark.parametrize("boundary_head", [True, False])
def test_every_loss_trains_and_logs_its_terms(config: TrainConfig, loss: Any, boundary_head: bool) -> None:
    config = dataclasses.replace(config, loss=loss, boundary_head=boundary_head, steps=2, log_every=1, eval_every=1)
    metrics = run(config)
    assert 0 <= metrics["miou"] <= 1
    logs = scalars(config)
    terms = {"total", "semantic/total", "semantic/segmentation"}
    if loss != "ce":
        terms |= {f"semantic/{name}" for name in ("edge", "dice", "boundary", "inverseform")}
    assert {tag.removeprefix("loss/") for tag in logs if tag.startswith("loss/")} == terms
    for tag in [*(f"loss/{term}" for term in terms), "train/lr", "train/images_per_second", "eval/miou", "eval/mba"]:
        assert list(logs[tag]) == [1, 2]
        assert all(map(math.isfinite, logs[tag].values()))


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "sgd", "lr": 0.05, "clip": 0.1},
        {"amp": "bf16", "eval_size": (24, 32)},
        {"amp": "fp16", "inverseform_start": 2},
    ],
    ids=["sgd", "bf16", "fp16"],
)
def test_the_options_of_training_run_and_resume(config: TrainConfig, change: dict[str, Any], tmp_path: Path) -> None:
    straight = dataclasses.replace(config, out=str(tmp_path / "straight"), **change)
    run(straight)
    checkpoint = load_checkpoint(Path(straight.out))
    torch.manual_seed(straight.seed)
    start = build_model(straight.model, straight.backbone, checkpoint.tasks).state_dict()
    assert all(value.isfinite().all() for value in checkpoint.model.values())
    assert not torch.equal(checkpoint.model["heads.semantic.weight"], start["heads.semantic.weight"])

    stopped = dataclasses.replace(straight, checkpoint_every=2, out=str(tmp_path / "stopped"))
    with pytest.raises(KeyboardInterrupt):
        run(stopped, datasets=interrupted_scenes(config, batches=3))
    assert load_checkpoint(Path(stopped.out)).step == 2
    run(stopped, resume=True)
    assert_same_end(straight, stopped)


def test_clipping_bounds_the_step_of_the_weights(config: TrainConfig) -> None:
    config = dataclasses.replace(config, steps=1, warmup=0, optimizer="sgd", lr=1.0, weight_decay=0.0, clip=0.01)
    run(config)
    checkpoint = load_checkpoint(Path(config.out))
    torch.manual_seed(config.seed)
    model = build_model(config.model, config.backbone, checkpoint.tasks)
    steps = [checkpoint.model[name] - weight.detach() for name, weight in model.named_parameters()]
    assert torch.cat([step.flatten() for step in steps]).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_model_learns(config: TrainConfig) -> None:
    scenes = Scenes("train", size=(48, 64), length=4)
    config = dataclasses.replace(config, steps=30, batch_size=4, crop=(48, 64), scale=(1.0, 1.0), loss="ce", lr=5e-3)
    assert run(config, datasets=(scenes, scenes))["pixel_accuracy"] > 0.7


def test_an_earlier_run_is_neither_lost_nor_mixed_up(copied: TrainConfig) -> None:
    out = Path(copied.out)
    before = (out / "last.pt").read_bytes()
    with pytest.raises(FileExistsError, match=r"holds an earlier run \(last.pt, metrics.json"):
        run(copied)
    with pytest.raises(FileNotFoundError):
        run(dataclasses.replace(copied, data="camvid", root="nowhere", data_options={}), overwrite=True)
    assert (out / "last.pt").read_bytes() == before

    (out / "notes.txt").write_text("mine")
    run(dataclasses.replace(copied, seed=1), overwrite=True)
    assert (out / "last.pt").read_bytes() != before
    assert (out / "notes.txt").read_text() == "mine"
    assert len(list((out / "tensorboard").glob("events.*"))) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", 0.01), ("steps", 8), ("crop", (32, 32)), ("seed", 1), ("tasks", {"semantic": 2.0})],
)
def test_a_resumed_run_keeps_what_decides_its_result(
    finished: tuple[TrainConfig, dict[str, float]], field: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=rf"must keep the configuration of .*last.pt: {field} was .*, now "):
        run(dataclasses.replace(finished[0], **{field: value}), resume=True)


def test_a_resumed_run_keeps_its_classes(copied: TrainConfig) -> None:
    class TwoClasses(Scenes):
        def __init__(self) -> None:
            super().__init__("train", size=(48, 64), length=2)
            self.tasks = {"semantic": SemanticTask(classes=("sky", "road"))}

    message = r"must have the classes \('sky', .* of the task semantic, got \('sky', 'road'\)"
    with pytest.raises(ValueError, match=message):
        run(copied, resume=True, datasets=(TwoClasses(), TwoClasses()))


def test_a_resumed_run_may_change_what_does_not(
    finished: tuple[TrainConfig, dict[str, float]], copied: TrainConfig
) -> None:
    again = run(dataclasses.replace(copied, workers=1, log_every=1, checkpoint_every=1, eval_every=1), resume=True)
    assert math.isnan(again["seconds_per_step"])  # no step was left to take
    assert json.dumps(again | {"seconds_per_step": 0}) == json.dumps(finished[1] | {"seconds_per_step": 0})


def test_a_damaged_checkpoint_is_not_resumed_from(copied: TrainConfig) -> None:
    path = Path(copied.out) / "last.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"last.pt must be a complete checkpoint"):
        run(copied, resume=True)


def test_resuming_needs_a_checkpoint(config: TrainConfig) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*last\.pt"):
        run(config, resume=True)
    with pytest.raises(ValueError, match="exclude each other"):
        run(config, resume=True, overwrite=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(config: TrainConfig) -> None:
    config = dataclasses.replace(config, lr=1e30, warmup=0, loss="ce", log_every=1, checkpoint_every=1, steps=8)
    with pytest.raises(
        FloatingPointError, match=r"must be finite, but is not at step \d.*'semantic/segmentation': nan"
    ):
        run(config)
    assert load_checkpoint(Path(config.out) / "last.pt").step < config.steps
