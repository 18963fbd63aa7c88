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
    with pytest.raises(ValueError, match=r"last.pt must be a checkpoint of format 3, got format 1 of another version"):
        load_checkpoint(path)


@pytest.mark.parametrize(("head", "beta", "now"), [(False, None, 0.3), (True, None, None), (False, 2.0, 2.0)])
def test_a_checkpoint_of_format_2_keeps_its_loss(path: Path, head: bool, beta: float | None, now: float | None) -> None:
    """It knew no edge and no Dice, and its headless beta was another."""
    values = torch.load(path, weights_only=True)
    config = values["config"] | {"boundary_head": head, "beta": beta}
    del config["edge"], config["dice"]
    torch.save(values | {"format": 2, "config": config}, path)
    expected = TrainConfig(boundary_head=head, edge=0, dice=0, beta=now)
    assert load_checkpoint(path).config == expected


def test_a_task_must_be_registered_to_be_saved_and_to_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "semantic", type("Another", (SemanticTask,), {}))
    checkpoint = Checkpoint(TrainConfig(), {"semantic": TASK}, 0, {}, {}, {})
    with pytest.raises(ValueError, match=r"must be of a class in TASKS \(semantic\), got SemanticTask"):
        save_checkpoint(path, checkpoint)
    assert load_checkpoint(path).step == 3
    monkeypatch.delitem(TASKS, "semantic")
    with pytest.raises(ValueError, match="the type of a task must be one of , got 'semantic'"):
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


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"format": 2, "state_dict": {}}, [1]])
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
