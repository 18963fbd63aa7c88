"""Checkpoints are written whole and finite or not at all; they are verified, and read without running code."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..fields import check_fields
from ..states import check_keys, check_step, check_tensors, read_state, write_state
from .config import TrainConfig
from .tasks import Task, task_from_dict, task_to_dict

CHECKPOINT = "last.pt"
_FORMAT = 4
_READ = (2, 3, 4)  # format 1 held class names in place of tasks
_SAVED = ("config", "tasks", "step", "model", "optimizer", "scaler")
_SHARD = re.compile(r"shards-\d+/[\w-]+\.safetensors")
_YOUNGER: dict[str, Any] = {  # options that came without a new format, as they were before
    "align_labels": False,
    "align_start": None,
    "model_options": {},
    "accumulate": 1,
    "sync_bn": True,
    "shard": False,
    "timeout": 25,
}


@dataclass
class Checkpoint:
    """All that a run needs to continue; randomness and the learning rate are functions of ``config`` and ``step``.

    Attributes:
        config: the configuration of the run.
        tasks: the tasks that the model predicts, by name and in order.
        step: the number of steps taken.
        model, optimizer, scaler: their state dicts.
        shards: the files beside ``path`` that hold the tensors of model and optimizer, which are empty then, and the
            digests of these files; none if all is in one file.
        path: the file that it was read from.
    """

    config: TrainConfig
    tasks: dict[str, Task]
    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    shards: dict[str, str] = field(default_factory=dict)
    path: Path = Path(CHECKPOINT)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes ``checkpoint`` to ``path`` atomically; its shards, if it has any, are there already.

    Raises:
        ValueError: the class of a task is not in ``TASKS``.
        FloatingPointError: a number is not finite. ``path`` stays as it is.
    """
    plain = {
        "format": _FORMAT,
        "config": checkpoint.config.to_dict(),
        "tasks": [task_to_dict(task) for task in checkpoint.tasks.values()],
    }
    shards = {"shards": checkpoint.shards} if checkpoint.shards else {}
    write_state(path, {name: getattr(checkpoint, name) for name in _SAVED} | plain | shards)


def write_tensors(out: Path, checkpoint: Checkpoint) -> Checkpoint:
    """Writes the tensors of a sharded model and of its optimizer into files in ``out``; all processes must call this.

    Returns:
        The checkpoint without its tensors, which is still to be saved in ``out``.

    Raises:
        FloatingPointError: a number is not finite.
        OSError: a process cannot write its file.
    """
    from .shards import flattened, write_shards  # takes a third of a second, as below

    shards = write_shards(out, checkpoint.step, flattened(checkpoint.model, checkpoint.optimizer["state"]))
    return replace(checkpoint, model={}, optimizer=checkpoint.optimizer | {"state": {}}, shards=shards)


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint with whole tensors onto the CPU; only tensors and plain values are unpickled.

    Args:
        path: the file, or the folder of a run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of another format or no checkpoint of this program; the message names it.
    """
    checkpoint = read_checkpoint(path)
    if not checkpoint.shards:
        return checkpoint
    from .shards import read_whole, unflattened

    model, moments = unflattened(read_whole(checkpoint.path.parent, checkpoint.shards))
    return replace(checkpoint, model=model, optimizer=checkpoint.optimizer | {"state": moments}, shards={})


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint as :func:`load_checkpoint` does, but leaves tensors in shards where they are."""
    path = path / CHECKPOINT if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    values = read_state(path, "checkpoint")
    found = values.pop("format", None) if isinstance(values, dict) else None
    if not isinstance(found, int) or (found in _READ and "step" not in values):
        raise ValueError(f"{path} must be a checkpoint of inverseform-fast train (format {_FORMAT}), and is not")
    if found not in _READ:
        raise ValueError(
            f"{path} must be a checkpoint of format {_FORMAT}, got format {found} of another version: train anew"
        )
    try:
        return Checkpoint(**_parsed(values, found), path=path)
    except ValueError as error:
        raise ValueError(f"{path} must be a checkpoint of inverseform-fast train, but {error}") from error


def _parsed(values: dict[str, Any], found: int) -> dict[str, Any]:
    """Returns the values in a file of format ``found`` as a checkpoint has them; an error says what is wrong."""
    values = {"shards": {}} | values
    check_keys(values, (*_SAVED, "shards"), "the file")
    if not isinstance(values["config"], dict):
        raise ValueError(f"config must be a dict, got {type(values['config']).__name__}")
    options = _upgraded(_YOUNGER | values["config"], found)
    check_keys(options, [field.name for field in fields(TrainConfig)], "config")
    config = TrainConfig.from_dict(options)
    check_step(values["step"], config.steps)
    check_tensors(values["model"], "model")
    for name, kind in (("tasks", list), ("optimizer", dict), ("scaler", dict), ("shards", dict)):
        if not isinstance(values[name], kind):
            raise ValueError(f"{name} must be a {kind.__name__}, got {type(values[name]).__name__}")
    if unknown := [name for name in values["shards"] if not _SHARD.fullmatch(str(name))]:
        raise ValueError(f"shards must be files beside it, got {unknown[0]!r}")
    tasks = list(map(_task, values["tasks"]))
    if not tasks or len({task.name for task in tasks}) < len(tasks):
        raise ValueError(f"tasks must have names of their own, got {[task.name for task in tasks]}")
    return values | {"config": config, "tasks": {task.name: task for task in tasks}}


def _task(values: Any) -> Task:
    try:
        task = task_from_dict(values)
        check_fields(task)
    except (AttributeError, KeyError, TypeError) as error:  # of values of other types
        raise ValueError(f"tasks must be what task_to_dict returns, got {values!r}") from error
    return task


def _upgraded(config: dict[str, Any], found: int) -> dict[str, Any]:
    """Returns an older format's configuration in today's: it knew fewer terms, and had another headless beta."""
    if found == _FORMAT:
        return config
    unknown = {"f1": 0.0} if found == 3 else {"edge": 0.0, "dice": 0.0, "f1": 0.0}
    headless = config.get("beta") is None and not config.get("boundary_head")
    return config | unknown | ({"beta": 2.0 if found == 3 else 0.3} if headless else {})
