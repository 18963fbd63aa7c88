"""Checkpoints are whole or absent, are read without running code, and are refused if they are something else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from inverseform_fast.files import write_atomically
from inverseform_fast.segmentation.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.evaluation import load_model
from inverseform_fast.segmentation.models import build_model
from inverseform_fast.segmentation.tasks import TASKS, SemanticTask

TASK = SemanticTask(classes=("sky", "road"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a small checkpoint after 3 steps."""
    model = build_model("pyramid", "test_resnet", {"semantic": TASK})
    path = tmp_path / "last.pt"
    save_checkpoint(path, Checkpoint(TrainConfig(), {"semantic": TASK}, 3, model.state_dict(), {}, {}))
    return path


def test_a_checkpoint_has_what_was_saved(path: Path) -> None:
    for place in (path, path.parent):
        checkpoint = load_checkpoint(place)
        assert (checkpoint.config, checkpoint.step) == (TrainConfig(), 3)
        assert checkpoint.tasks == {"semantic": TASK}
        model = build_model("pyramid", "test_resnet", checkpoint.tasks)
        model.load_state_dict(checkpoint.model)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: v.pop("optimizer"), "optimizer is missing"),
        (lambda v: v.update(more=1), "more is unknown"),
        (lambda v: v.update(step=2001), "step must be a whole number from 0 to 2000, got 2001"),
        (lambda v: v.update(step=-1), "step must be a whole number from 0 to 2000, got -1"),
        (lambda v: v.update(step=True), "step must be a whole number from 0 to 2000, got True"),
        (lambda v: v.update(step=2.0), "step must be a whole number from 0 to 2000, got 2.0"),
        (lambda v: v.update(config=[]), "config must be a dict, got list"),
        (lambda v: v["config"].pop("lr"), "lr is missing"),
        (lambda v: v["config"].update(lrr=1), "lrr is unknown"),
        (lambda v: v["config"].update(steps="many"), "steps must be a whole number, got 'many'"),
        (lambda v: v.update(model=[]), "model must be a dict, got list"),
        (lambda v: v["model"].update(x=1), "model must hold tensors by name, got 'x': int"),
        (lambda v: v.update(optimizer=[]), "optimizer must be a dict, got list"),
        (lambda v: v.update(tasks={}), "tasks must be a list, got dict"),
        (lambda v: v.update(tasks=[]), r"tasks must have names of their own, got \[\]"),
        (lambda v: v["tasks"].append(v["tasks"][0]), "tasks must have names of their own"),
        (lambda v: v.update(tasks=[3]), "tasks must be what task_to_dict returns, got 3"),
        (lambda v: v["tasks"][0].pop("type"), "tasks must be what task_to_dict returns"),
        (lambda v: v["tasks"][0].update(classes=("sky", 3), colors=()), "classes must be a list of a string"),
    ],
)
def test_a_checkpoint_with_wrong_content_is_named(path: Path, damage: Any, message: str) -> None:
    values = torch.load(path, weights_only=True)
    damage(values)
    torch.save(values, path)
    with pytest.raises(ValueError, match=rf"last\.pt must be a checkpoint of inverseform-fast train, but .*{message}"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("heads.semantic.bias", None, r"heads\.semantic\.bias missing, not float32 \(2,\)"),
        ("more", torch.zeros(1), r"more float32 \(1,\), not present"),
        ("heads.semantic.bias", torch.zeros(3), r"heads\.semantic\.bias float32 \(3,\), not float32 \(2,\)"),
        (
            "heads.semantic.bias",
            torch.zeros(2, dtype=torch.int64),
            r"heads\.semantic\.bias int64 \(2,\), not float32 \(2,\)",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_named(path: Path, name: str, value: Any, message: str) -> None:
    values = torch.load(path, weights_only=True)
    if value is None:
        del values["model"][name]
    else:
        values["model"][name] = value
    values["config"]["boundary_head"] = True  # as the model of the fixture has
    torch.save(values, path)
    with pytest.raises(ValueError, match=rf"checkpoint: the tensors of .*last\.pt must be those of \w+: {message}"):
        load_model(path)


def test_a_checkpoint_from_before_some_options_is_read(path: Path) -> None:
    values = torch.load(path, weights_only=True)
    for name in ("align_labels", "align_start", "accumulate", "sync_bn", "shard", "timeout"):
        del values["config"][name]
    torch.save(values, path)
    assert load_checkpoint(path).config == TrainConfig()


def test_shards_are_files_beside_the_checkpoint(path: Path) -> None:
    torch.save(torch.load(path, weights_only=True) | {"shards": {"../shards-1/part.safetensors": "0"}}, path)
    with pytest.raises(ValueError, match=r"shards must be files beside it, got '\.\./shards-1/part\.safetensors'"):
        load_checkpoint(path)


def test_a_damaged_checkpoint_is_named(path: Path) -> None:
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"last.pt must be a complete checkpoint"):
            load_checkpoint(path)
    path.write_text("hello")  # no checkpoint at all: torch's unpickler raises KeyError
    with pytest.raises(ValueError, match=r"last.pt must be a complete checkpoint"):
        load_checkpoint(path)


def test_a_checkpoint_of_the_old_format_is_refused(path: Path) -> None:
    """A checkpoint of format 1 has class names, and its only head is called ``segmentation``."""
    config = TrainConfig().to_dict()
    del config["tasks"]
    model = {"segmentation.weight": torch.zeros(2, 64, 1, 1), "segmentation.bias": torch.zeros(2)}
    old = {"config": config, "classes": ["sky", "road"], "step": 20, "model": model, "optimizer": {}, "scaler": {}}
    torch.save(old | {"format": 1}, path)
    with pytest.raises(ValueError, match=r"last.pt must be a checkpoint of format 4, got format 1 of another version"):
        load_checkpoint(path)


@pytest.mark.parametrize(("head", "beta"), [(False, None), (True, None), (False, 3.0)])
@pytest.mark.parametrize(("found", "unknown", "headless"), [(2, ("edge", "dice", "f1"), 0.3), (3, ("f1",), 2.0)])
def test_a_checkpoint_of_an_older_format_keeps_its_loss(
    path: Path, found: int, unknown: tuple[str, ...], headless: float, head: bool, beta: float | None
) -> None:
    values = torch.load(path, weights_only=True)
    config = values["config"] | {"boundary_head": head, "beta": beta}
    known = {name: value for name, value in config.items() if name not in unknown}
    torch.save(values | {"format": found, "config": known}, path)
    expected = dict.fromkeys(unknown, 0.0) | {"beta": headless if beta is None and not head else beta}
    assert load_checkpoint(path).config.to_dict() == config | expected


def test_a_task_must_be_registered_to_be_saved_and_to_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "semantic", type("Another", (SemanticTask,), {}))
    checkpoint = Checkpoint(TrainConfig(), {"semantic": TASK}, 0, {}, {}, {})
    with pytest.raises(ValueError, match=r"must be of a class in TASKS \(.*depth\), got SemanticTask"):
        save_checkpoint(path, checkpoint)
    assert load_checkpoint(path).step == 3
    monkeypatch.delitem(TASKS, "semantic")
    with pytest.raises(ValueError, match=r"the type of a task must be one of .*depth, got 'semantic'"):
        load_checkpoint(path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "harm",))

    path = tmp_path / "last.pt"
    torch.save({"format": 2, "model": Malicious()}, path)
    with pytest.raises(ValueError, match="must be a complete checkpoint"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ValueError, match="must be a complete checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "content",
    [{"state_dict": {}}, {"format": 2, "state_dict": {}}, [1], {"format": torch.ones(2)}, {"format": "3"}],
    ids=["no format", "no step", "a list", "a tensor for the format", "text for the format"],
)
def test_another_programs_checkpoint_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="must be a checkpoint of inverseform-fast train"):
        load_checkpoint(tmp_path / "last.pt")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file: Any) -> None:
        file.write(b"half of the new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with path.open() as reader:
        write_atomically(path, lambda file: file.write(b"new"))
        assert reader.read() == "old"  # the new file took the name of the old one, which was not written to
    assert path.read_text() == "new"
