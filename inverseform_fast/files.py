"""Files that are either whole or absent, weights among them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Make a file by ``write(file)``; at any moment, a crash included, ``path`` holds the old content or the new."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_weights(path: Path, net: nn.Module, header: dict[str, str]) -> None:
    """Write the state of ``net`` as safetensors, atomically, with ``header`` as its metadata."""
    weights = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    write_atomically(path, lambda file: file.write(save(weights, header)))


def read_weights(path: Path, argument: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors, on the CPU, of a safetensors file; errors call it ``argument``.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is no complete safetensors file (a pickle, say).
    """
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: no weight file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # safe_open is no dict: it cannot be iterated over
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(
            f"{argument}: {path} must be a complete safetensors file (pickled weights are refused): {error}"
        ) from error


def load_strictly(net: nn.Module, weights: dict[str, Tensor], path: Path, argument: str) -> None:
    """Load ``weights``, read from ``path``; raise ValueError that names each tensor missing, too many or misshaped."""
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = [
        f"{k} {found.get(k, 'missing')}, not {expected.get(k, 'present')}"
        for k in sorted({*expected, *found})
        if expected.get(k) != found.get(k)
    ]
    if wrong:
        raise ValueError(f"{argument}: the tensors of {path} must be those of {type(net).__name__}: {'; '.join(wrong)}")
    net.load_state_dict(weights)
