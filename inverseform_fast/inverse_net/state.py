"""A training leaves a state to resume from in the file ``last.pt`` of its folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from ..files import write_atomically
from .config import NetConfig

STATE = "last.pt"


class State(TypedDict):
    """The state of a training after ``step`` steps: its configuration, and the network's and the optimizer's states."""

    config: dict[str, Any]
    step: int
    net: dict[str, Tensor]
    optimizer: dict[str, Any]


def check_out(out: Path, resume: bool) -> None:
    """Checks that no earlier training would be lost or, if ``resume`` is asked for, that there is one.

    Raises:
        FileExistsError: ``out`` holds a training, and ``resume`` is not asked for.
        FileNotFoundError: ``resume`` is asked for, and ``out`` holds none.
    """
    if not resume and (out / STATE).exists():
        raise FileExistsError(
            f"out must be a folder without a training, but {out} holds a training: resume it, or choose another folder"
        )
    if resume and not (out / STATE).is_file():
        raise FileNotFoundError(f"out must hold a training to resume, but there is nothing to resume at {out / STATE}")


def read_state(out: Path, config: NetConfig) -> State:
    """Reads the state of the training in ``out``.

    Raises:
        ValueError: the file is damaged, or of another configuration than ``config``.
    """
    path = out / STATE
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises UnpicklingError, RuntimeError, EOFError, KeyError and more
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} must be a complete training state, but cannot be read: {reason}") from error
    if not isinstance(state, dict) or state.keys() != State.__annotations__.keys():
        raise ValueError(f"{path} must be a training state of inverseform-fast train-net, and is not")
    older = {"predicted_share": 0.0}  # other fields that an older state lacks get their defaults
    before = asdict(NetConfig(**older | state["config"]))
    changes = [
        f"{name} was {before[name]!r}, now {new!r}" for name, new in asdict(config).items() if new != before[name]
    ]
    if changes:
        raise ValueError(f"a resumed training must keep its configuration: {'; '.join(changes)}")
    return state


def write_state(out: Path, state: State) -> None:
    """Writes the state into ``out``, atomically."""
    write_atomically(out / STATE, lambda file: torch.save(state, file))
