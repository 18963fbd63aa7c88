"""A training may move its labels to where the model sees them: from a step on, visibly, and the same after a resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from training_runs import assert_same_end, interrupted_scenes, run, scalars, tiny_config

import inverseform_fast as iff
from inverseform_fast import aligner
from inverseform_fast.nets import Align
from inverseform_fast.segmentation import report
from inverseform_fast.segmentation.checkpoint import load_checkpoint
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.tasks import SemanticTask, Task
from inverseform_fast.segmentation.tasks.semantic import SemanticAligner
from inverseform_fast.segmentation.training import run as training
from inverseform_fast.segmentation.training.alignment import TargetAligner

TASK = SemanticTask(classes=tuple(map(str, range(11))))


@pytest.fixture
def restless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file of a network that reads a shift of 3 pixels off anything."""
    monkeypatch.setattr(
        Align, "algebra", lambda _, predicted, target: (3 / 16 * torch.eye(8)[:1]).repeat(len(target), 1)
    )
    net = Align(tile=32)
    net.noise = 0.001
    net.save(tmp_path / "restless.safetensors")
    return str(tmp_path / "restless.safetensors")


@pytest.fixture
def config(tmp_path: Path, restless: str, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A run whose labels move from its third step on, although an untrained model sees no boundary."""
    monkeypatch.setattr(aligner, "_SEEN", 0.0)
    monkeypatch.setattr(report, "draw_rows", lambda *_: None)
    return tiny_config(tmp_path, restless, align_labels=True, align_start=2, log_every=1)


class Watched(training.Criterion):
    """Keeps the labels that every step's loss was given."""

    seen: list[Tensor]

    def forward(self, predictions: Any, targets: Any, step: int, counts: Any = None) -> dict[str, Tensor]:
        self.seen.append(targets["semantic"])
        return super().forward(predictions, targets, step, counts)


def labels_of(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Trains, and returns the labels of every step."""
    monkeypatch.setattr(Watched, "seen", [], raising=False)
    run(config, criterion=Watched)
    return Watched.seen


def test_the_loss_sees_moved_labels_from_the_start_on(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = labels_of(config, monkeypatch)
    as_they_are = dataclasses.replace(config, align_labels=False, out=f"{config.out}2")
    given = labels_of(as_they_are, monkeypatch)
    assert [torch.equal(*pair) for pair in zip(moved, given, strict=True)] == [True, True, False, False]
    assert moved[3].dtype == given[3].dtype
    assert set(moved[3].unique().tolist()) <= {*given[3].unique().tolist(), 255}


def test_curves_and_pictures_say_what_was_moved(config: TrainConfig) -> None:
    run(dataclasses.replace(config, checkpoint_every=3))
    logs = scalars(config)
    assert list(logs["align/semantic/displacement_px"]) == list(logs["align/semantic/tiles_moved"]) == [3, 4]
    assert all(value > 0 for value in logs["align/semantic/displacement_px"].values())
    assert all(0 < value <= 1 for value in logs["align/semantic/tiles_moved"].values())
    events = EventAccumulator(str(Path(config.out) / "tensorboard")).Reload()
    pictures = events.Images("align/semantic")
    assert [picture.step for picture in pictures] == [3, 4]
    assert pictures[0].width > 1000


def test_a_resumed_run_gives_the_same_numbers(config: TrainConfig, tmp_path: Path) -> None:
    straight = dataclasses.replace(config, out=str(tmp_path / "straight"))
    metrics = run(straight)
    stopped = dataclasses.replace(config, checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, datasets=interrupted_scenes(stopped, batches=3))
    assert load_checkpoint(Path(stopped.out)).step == 3
    assert run(stopped, resume=True)["miou"] == metrics["miou"]
    assert_same_end(straight, stopped)
    with pytest.raises(ValueError, match="align_start was 2, now 1"):
        run(dataclasses.replace(stopped, align_start=1), resume=True)


def test_the_network_is_no_part_of_the_checkpoint(config: TrainConfig) -> None:
    module = TargetAligner(config, {"semantic": TASK})
    assert not module.state_dict()
    assert not list(module.parameters())


def test_a_quarter_of_the_steps_come_first_by_default(config: TrainConfig) -> None:
    config = dataclasses.replace(config, align_start=None, steps=10)
    module = TargetAligner(config, {"semantic": TASK})
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    assert not module({}, {}, 1)
    assert list(module({"semantic": torch.zeros(1, 11, 8, 8)}, {"semantic": labels}, 2)) == ["semantic"]


def test_the_boundary_head_is_used_if_there_is_one(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[..., 12:] = 1
    predictions = {"semantic": torch.zeros(1, 11, 8, 8)}
    monkeypatch.setattr(aligner, "_SEEN", 0.1)
    module = TASK.aligner(config)
    assert module
    assert not module(predictions, {"semantic": labels}).moved.any()
    boundary, net = torch.ones(1, 1, 8, 8), config.net or ""
    found = module(predictions | {"boundary": boundary}, {"semantic": labels})
    assert torch.equal(found.labels, iff.LabelAligner(net)(predictions["semantic"], labels, boundary))
    assert found.displacement[0, 0].mean().item() == pytest.approx(3, abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"align_start": 4}, "align_start must be from 0 to 3, got 4"),
        ({"align_start": -1}, "align_start must be from 0 to 3, got -1"),
    ],
)
def test_a_bad_start_is_refused(config: TrainConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **change)


def test_tasks_without_an_aligner_are_refused_before_the_work(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SemanticTask, "aligner", Task.aligner)
    with pytest.raises(
        ValueError, match="align_labels needs a task that has an aligner, such as semantic, got semantic"
    ):
        run(config)
    assert not Path(config.out).exists()
    run(dataclasses.replace(config, align_labels=False))


def test_without_a_network_the_classes_say_where_labels_belong() -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[..., 12:] = 1
    logits = 4 * torch.nn.functional.one_hot(labels.roll(3, -1), 11).movedim(-1, 1).float()
    module = SemanticAligner(TrainConfig(), "semantic", 255)
    found = module({"semantic": logits, "boundary": torch.zeros(1, 1, 8, 8)}, {"semantic": labels})
    assert torch.equal(found.labels, iff.LabelAligner()(logits, labels))
    assert found.moved.all()
