"""States to resume from: whole files that hold nothing but finite numbers, and that are read without running code."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from .errors import is_out_of_memory
from .files import write_atomically


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a state of tensors and plain values, atomically.

    Raises:
        FloatingPointError: a number is not finite. ``path`` stays as it is.
        OSError: the file cannot be written. ``path`` stays as it is.
    """
    if name := not_finite(state):
        raise FloatingPointError(f"the state must hold finite numbers, but {name} does not")
    buffer = io.BytesIO()  # because torch.save hides why a file cannot be written
    torch.save(dict(state), buffer)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))


def read_state(path: Path, kind: str) -> Any:
    """Reads what :func:`write_state` wrote, onto the CPU, after its checksums were verified.

    Args:
        path: the file.
        kind: what it should be, for the error message.

    Raises:
        ValueError: the file is damaged, or holds code, or a number that is not finite; the message names it.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        try:
            verify_archive(file)
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
            name = not_finite(state)
        except Exception as error:  # a damaged file may raise nearly any exception
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{path} must be a complete {kind}, but cannot be read: {reason}") from error
    if name:
        raise ValueError(f"{path} must be a {kind} of finite numbers, but {name} is not finite")
    return state


def verify_archive(file: BinaryIO) -> None:
    """Verifies a file of torch.save, a zip archive whose checksums torch.load ignores.

    Raises:
        ValueError, zipfile.BadZipFile: it is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        # torch.load reads random bytes in place of an entry that is marked as a folder.
        marked = any(entry.external_attr or entry.compress_size != entry.file_size for entry in entries)
        if marked or archive.testzip() is not None:
            raise ValueError("its checksums say that it is damaged")


def not_finite(state: object, name: str = "") -> str | None:
    """Returns the name of a number or tensor in nested containers that is not finite; None if all of them are."""
    if isinstance(state, Tensor | float):
        return None if (state.isfinite().all() if isinstance(state, Tensor) else math.isfinite(state)) else name
    if not isinstance(state, Mapping | list | tuple):
        return None
    items = state.items() if isinstance(state, Mapping) else enumerate(state)
    found = (not_finite(value, f"{name}.{key}" if name else str(key)) for key, value in items)
    return next(filter(None, found), None)


def check_keys(values: object, expected: Collection[str], name: str) -> None:
    """Checks that a dict has exactly these keys.

    Raises:
        ValueError: it is no dict, or a key is missing or superfluous; the message calls it ``name``.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{name} must be a dict, got {type(values).__name__}")
    missing = [f"{key} is missing" for key in expected if key not in values]
    unknown = [f"{key} is unknown" for key in values if key not in expected]
    if missing or unknown:
        raise ValueError(f"{name} must have the keys {', '.join(expected)}, but {', '.join(missing + unknown)}")


def check_step(step: object, steps: int) -> None:
    """Checks that a number of steps taken is a whole number from 0 to ``steps``."""
    if type(step) is not int or not 0 <= step <= steps:
        raise ValueError(f"step must be a whole number from 0 to {steps}, got {step!r}")


def check_tensors(values: object, name: str) -> None:
    """Checks that ``values``, which messages call ``name``, are tensors by name."""
    if not isinstance(values, dict):
        raise ValueError(f"{name} must be a dict, got {type(values).__name__}")
    for key, value in values.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{name} must hold tensors by name, got {key!r}: {type(value).__name__}")


_MOMENTS = {torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"), torch.optim.SGD: ("momentum_buffer",)}


def restore_optimizer(optimizer: Optimizer, state: object, name: str) -> None:
    """Restores what an optimizer has gathered from a state dict; its options stay those that it was made with.

    Args:
        optimizer: AdamW, or SGD with momentum.
        state: what its ``state_dict`` returned.
        name: what error messages call the state.

    Raises:
        ValueError: the state is of other parameters, or a tensor is missing, superfluous or of another shape.
    """
    fresh = optimizer.state_dict()
    check_keys(state, fresh, name)
    assert isinstance(state, dict)
    shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
    groups, gathered = state["param_groups"], state["state"]
    known = [group["params"] for group in fresh["param_groups"]]
    if not isinstance(groups, list) or [isinstance(g, dict) and g.get("params") for g in groups] != known:
        raise ValueError(f"{name} must be of the {len(shapes)} parameters of the model, in their groups")
    if not isinstance(gathered, dict) or not gathered.keys() <= set(range(len(shapes))):
        raise ValueError(f"{name} must hold what belongs to the {len(shapes)} parameters of the model alone")
    for index, moments in gathered.items():
        check_keys(moments, _MOMENTS[type(optimizer)], f"{name}, parameter {index},")
        for key, value in moments.items():
            expected = torch.Size() if key == "step" else shapes[index]
            if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape != expected:
                found = tuple(value.shape) if isinstance(value, Tensor) else value
                raise ValueError(f"{name}: {key} of parameter {index} must be floats {tuple(expected)}, got {found!r}")
            if key in ("step", "exp_avg_sq") and (value < 0).any():
                raise ValueError(f"{name}: {key} of parameter {index} must be at least 0")
    optimizer.load_state_dict({"state": gathered, "param_groups": fresh["param_groups"]})


class Training(Protocol):
    """What :func:`stop_explained` reads of a training.

    Attributes:
        step: the number of steps taken.
        saved: the number of steps that the state in its file has; None if there is no file.
    """

    step: int
    saved: int | None


@contextmanager
def stop_explained(path: Path, training: Training) -> Iterator[None]:
    """Lets an error that stops a training say where it stopped, what is safe in ``path``, and how to go on."""
    try:
        yield
    except (KeyboardInterrupt, FloatingPointError, OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        where = f"stopped at step {training.step}"
        kept = f"{path} holds step {training.saved}" if training.saved is not None else f"{path} is not written yet"
        if isinstance(error, FloatingPointError):
            raise FloatingPointError(f"{error}; {where}, {kept}: train anew with a lower lr") from error
        if training.saved is not None:
            kept += ": go on with --resume"
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"{where}; {kept}") from error
        explained = type(error)(f"{error}; {where}; {kept}")
        if isinstance(error, OSError) and isinstance(explained, OSError):
            explained.errno = error.errno
        raise explained from error
