"""Training learns, may be stopped at any moment, and neither loses nor mixes up results."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import math
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog
from torch import Tensor
from training_runs import assert_same_end, interrupted_scenes, run, scalars, tiny_config

from inverseform_fast.files import LOCK, locked
from inverseform_fast.segmentation import report
from inverseform_fast.segmentation.checkpoint import load_checkpoint
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import Scenes
from inverseform_fast.segmentation.models import MODELS, build_model
from inverseform_fast.segmentation.models.pyramid import PyramidSegmenter
from inverseform_fast.segmentation.tasks import SemanticTask
from inverseform_fast.segmentation.training.criterion import Criterion
from inverseform_fast.segmentation.training.run import train


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
        terms |= {f"semantic/{name}" for name in ("edge", "dice", "f1", "boundary", "inverseform")}
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
    assert json.dumps(again) == json.dumps(finished[1])  # the seconds per step, too, although no step was left to take
    assert json.loads((Path(copied.out) / "metrics.json").read_text())["seconds_per_step"] > 0


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
    config = dataclasses.replace(config, lr=1e6, warmup=0, loss="ce", log_every=1, steps=8)
    with pytest.raises(
        FloatingPointError,
        match=r"must be finite, but is not at step \d.*'semantic/segmentation': nan.*not written yet",
    ):
        run(config)
    assert not (Path(config.out) / "last.pt").exists()


@pytest.mark.parametrize("bad", [1, 2, 3, 4])
def test_weights_that_are_not_finite_leave_the_last_good_checkpoint(config: TrainConfig, bad: int) -> None:
    """The loss that is logged is from before the step, and does not know yet what became of the weights."""

    class Explodes(Criterion):
        def forward(self, predictions: Any, targets: Any, step: int, counts: Any = None) -> dict[str, Tensor]:
            total = super().forward(predictions, targets, step, counts)["total"]
            if step + 1 == bad:  # finite, with an infinite gradient
                total = total + (total - total.detach()).abs().sqrt()
            return {"total": total}

    config = dataclasses.replace(config, loss="ce", checkpoint_every=1)
    kept = f"last.pt holds step {bad - 1}" if bad > 1 else "last.pt is not written yet"
    message = rf"finite numbers, but model\..* does not; stopped at step {bad}, .*{kept}: train anew"
    with pytest.raises(FloatingPointError, match=message):
        run(config, criterion=Explodes)
    if bad > 1:
        assert load_checkpoint(Path(config.out)).step == bad - 1


def test_a_resumed_run_keeps_the_order_of_its_tasks(config: TrainConfig) -> None:
    class Two(Scenes):
        def __init__(self, names: str) -> None:
            super().__init__("train", size=(48, 64), length=2)
            self.tasks = {name: dataclasses.replace(self.tasks["semantic"], name=name) for name in names}

        def read(self, index: int) -> Any:
            sample = super().read(index)
            return {"image": sample["image"], **dict.fromkeys(self.tasks, sample["semantic"])}

    config = dataclasses.replace(config, loss="ce", boundary_head=False, steps=1)
    run(config, datasets=(Two("ab"), Two("ab")))
    with pytest.raises(ValueError, match=r"must have its tasks in the order of .*last\.pt, a, b, got b, a"):
        run(config, resume=True, datasets=(Two("ba"), Two("ba")))


def test_an_interrupted_training_says_what_is_safe(config: TrainConfig) -> None:
    config = dataclasses.replace(config, checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt, match=r"stopped at step 2; .*last\.pt holds step 2: go on with --resume"):
        run(config, datasets=interrupted_scenes(config, batches=2))


def test_a_full_disk_is_said_and_the_old_checkpoint_stays(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    real, synced = os.fsync, []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 4:  # config.json and two checkpoints had room
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    message = r"No space left on device: '.*last\.pt'; stopped at step 3; .*last\.pt holds step 2: go on with --resume"
    with pytest.raises(OSError, match=message):
        run(dataclasses.replace(config, checkpoint_every=1))
    assert load_checkpoint(Path(config.out)).step == 2


def test_without_a_terminal_each_log_entry_is_a_line(config: TrainConfig) -> None:
    printed = io.StringIO()
    config = dataclasses.replace(config, loss="boundary", log_every=2)
    train(config, console=Console(file=printed, width=20))
    lines = printed.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "step 2 of 4",
        "step 4 of 4",
        "evaluating",
        "evaluating",
        "step 4",
        "writing the report",
    ]
    assert lines[0].split()[4::2] == ["L", "xe", "bxe", "edge", "dice", "f1"]  # no InverseForm, which this loss has not


def test_a_resumed_run_removes_what_it_had_logged_beyond_its_checkpoint(config: TrainConfig) -> None:
    config = dataclasses.replace(config, checkpoint_every=2, log_every=1, steps=6)
    with pytest.raises(KeyboardInterrupt):
        run(config, datasets=interrupted_scenes(config, batches=3))
    events = [
        each for path in (Path(config.out) / "tensorboard").iterdir() for each in EventFileLoader(str(path)).Load()
    ]
    assert max(event.step for event in events) == 3
    run(config, resume=True)
    events = [
        each for path in (Path(config.out) / "tensorboard").iterdir() for each in EventFileLoader(str(path)).Load()
    ]
    (start,) = [
        e.step for e in events if e.HasField("session_log") and e.session_log.status == SessionLog.START and e.step
    ]
    assert start == 2


def test_one_run_at_a_time_trains_into_a_folder(config: TrainConfig) -> None:
    if (pid := os.fork()) == 0:
        with locked(Path(config.out)):
            signal.pause()
    while not (Path(config.out) / LOCK).exists() or not (Path(config.out) / LOCK).read_text():
        time.sleep(0.002)
    try:
        with pytest.raises(BlockingIOError, match=rf"process {pid} on .* is using"):
            run(config)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    run(config)


def test_a_batch_too_small_for_batchnorm_is_named(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match=r"^batch_size must be at least 2, or crop larger: .* 1 x 32x32 pixels"):
        run(dataclasses.replace(config, batch_size=1, crop=(32, 32)))
