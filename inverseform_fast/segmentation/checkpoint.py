"""Checkpoints are written whole or not at all, and they are read without running code."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..files import write_atomically
from .config import TrainConfig
from .tasks import Task, task_from_dict, task_to_dict

CHECKPOINT = "last.pt"
_FORMAT = 3
_READ = (2, 3)  # format 1 held class names in place of tasks


@dataclass
class Checkpoint:
    """All that a run needs to continue; randomness and the learning rate are functions of ``config`` and ``step``.

    Attributes:
        config: the configuration of the run.
        tasks: the tasks that the model predicts, by name and in order.
        step: the number of steps taken.
        model, optimizer, scaler: their state dicts.
    """

    config: TrainConfig
    tasks: dict[str, Task]
    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes ``checkpoint`` to ``path`` atomically.

    Raises:
        ValueError: the class of a task is not in ``TASKS``.
    """
    plain = {
        "format": _FORMAT,
        "config": checkpoint.config.to_dict(),
        "tasks": [task_to_dict(task) for task in checkpoint.tasks.values()],
    }
    write_atomically(path, lambda file: torch.save(vars(checkpoint) | plain, file))


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint onto the CPU; only tensors and plain values are unpickled.

    Args:
        path: the file, or the folder of a run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, damaged, of another format or no checkpoint of this program.
    """
    path = path / CHECKPOINT if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises UnpicklingError, RuntimeError, EOFError, KeyError and more
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} must be a complete checkpoint, but cannot be read: {reason}") from error
    found = values.pop("format", None) if isinstance(values, dict) else None
    if found is None or (found in _READ and values.keys() != {field.name for field in fields(Checkpoint)}):
        raise ValueError(f"{path} must be a checkpoint of inverseform-fast train (format {_FORMAT}), and is not")
    if found not in _READ:
        raise ValueError(
            f"{path} must be a checkpoint of format {_FORMAT}, got format {found} of another version: train anew"
        )
    config = values["config"] if found == _FORMAT else _upgraded(values["config"])
    tasks = {task.name: task for task in map(task_from_dict, values["tasks"])}
    return Checkpoint(**values | {"config": TrainConfig.from_dict(config), "tasks": tasks})


def _upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a configuration of format 2, which knew no edge and no Dice and had another headless beta, in today's."""
    beta = 0.3 if config["beta"] is None and not config["boundary_head"] else config["beta"]
    return config | {"edge": 0.0, "dice": 0.0, "beta": beta}
