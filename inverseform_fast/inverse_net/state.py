"""What a training leaves on the way: the state to resume from, in the file ``last.pt`` of its folder."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from ..files import write_atomically
from .config import NetConfig

STATE = "last.pt"


class State(TypedDict):
    """A training after ``step`` steps: its configuration and the states of the network and the optimiser."""

    config: dict[str, Any]
    step: int
    net: dict[str, Tensor]
    optimizer: dict[str, Any]


def check_out(out: Path, resume: bool) -> None:
    """Check that no earlier training would be lost, or that there is one to resume.

    Raises:
        FileExistsError: ``out`` holds a training, and ``resume`` is not asked for.
        FileNotFoundError: ``resume`` is asked for, and ``out`` holds none.
    """
    if not resume and (out / STATE).exists():
        raise FileExistsError(f"{out} holds a training: resume it, or choose another folder")
    if resume and not (out / STATE).is_file():
        raise FileNotFoundError(f"nothing to resume at {out / STATE}")


def read_state(out: Path, config: NetConfig) -> State:
    """The state of the training in ``out``.

    Raises:
        ValueError: the file is damaged, or of another configuration than ``config``.
    """
    path = out / STATE
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} must be a complete training state, but cannot be read: {error}") from error
    before = asdict(NetConfig(**state["config"]))  # an older state lacks newer fields, which get their defaults
    changes = [
        f"{name} was {before[name]!r}, now {new!r}" for name, new in asdict(config).items() if new != before[name]
    ]
    if changes:
        raise ValueError(f"a resumed training must keep its configuration: {'; '.join(changes)}")
    return state


def write_state(out: Path, state: State) -> None:
    """Write the state into ``out``, atomically."""
    write_atomically(out / STATE, lambda file: torch.save(state, file))
