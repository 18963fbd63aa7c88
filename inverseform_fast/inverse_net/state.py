"""A training leaves a state to resume from in the file ``last.pt`` of its folder."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypedDict

from torch import Tensor

from .. import states
from .config import NetConfig

STATE = "last.pt"
_YOUNGER = ("outputs", "init", "damage_every", "transforms", "stn")  # options that an older state may lack


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
        ValueError: the file is damaged, or of another configuration than ``config``; the message names it.
    """
    path = out / STATE
    state = states.read_state(path, "training state")
    if not isinstance(state, dict) or "net" not in state:
        raise ValueError(f"{path} must be a training state of inverseform-fast train-net, and is not")
    try:
        before = _checked(state)
    except ValueError as error:
        raise ValueError(f"{path} must be a training state of inverseform-fast train-net, but {error}") from error
    old, new = asdict(before), asdict(config)
    changes = [f"{name} was {old[name]!r}, now {value!r}" for name, value in new.items() if value != old[name]]
    if changes:
        raise ValueError(f"a resumed training must keep its configuration: {'; '.join(changes)}")
    return State(**state)  # type: ignore[typeddict-item]


def _checked(state: dict[str, Any]) -> NetConfig:
    """Checks the types of a state; returns its configuration."""
    states.check_keys(state, State.__annotations__, "the file")
    if not isinstance(state["config"], dict):
        raise ValueError(f"config must be a dict, got {type(state['config']).__name__}")
    defaults: dict[str, Any] = {field.name: field.default for field in fields(NetConfig)}
    options = {name: defaults[name] for name in _YOUNGER} | {"predicted_share": 0.0} | state["config"]
    states.check_keys(options, defaults, "config")
    config = NetConfig(**options)
    states.check_step(state["step"], config.steps)
    states.check_tensors(state["net"], "net")
    return config


def write_state(out: Path, state: State) -> None:
    """Writes the state into ``out``, atomically.

    Raises:
        FloatingPointError: a number is not finite. The file stays as it is.
    """
    states.write_state(out / STATE, state)
