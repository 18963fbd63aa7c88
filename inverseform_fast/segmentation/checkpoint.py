"""Checkpoints: whole or absent, and read without running code."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..files import write_atomically
from .config import TrainConfig

CHECKPOINT = "last.pt"
_FORMAT = 1


@dataclass
class Checkpoint:
    """All that a run needs to go on: randomness and the learning rate are functions of ``config.seed`` and ``step``.

    Attributes:
        config: of the run.
        classes: class names, in the order of the logits.
        step: how many steps were taken.
        model, optimizer, scaler: state dicts.
    """

    config: TrainConfig
    classes: list[str]
    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes ``checkpoint`` to ``path`` atomically."""
    values = {**vars(checkpoint), "config": checkpoint.config.to_dict(), "format": _FORMAT}
    write_atomically(path, lambda file: torch.save(values, file))


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint onto the CPU, without unpickling anything but tensors and plain values.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated, damaged or no checkpoint of this program.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} must be a complete checkpoint, but cannot be read: {reason}") from error
    if not isinstance(values, dict) or values.pop("format", None) != _FORMAT:
        raise ValueError(f"{path} must be a checkpoint of inverseform-fast train (format {_FORMAT}), and is not")
    return Checkpoint(**{**values, "config": TrainConfig.from_dict(values["config"])})
