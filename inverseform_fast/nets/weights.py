"""Weight files: they are whole or absent, hold nothing but tensors, and are loaded strictly."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..checks import shown
from ..files import write_atomically

WEIGHTS = Path(__file__).parents[1] / "weights"  # the package's own weight files
SHIPPED = ("compact", "predictions")
LARGEST = 4096  # of the sizes that a file names: a tile beyond this is an image

Net = TypeVar("Net", bound=nn.Module)


def weight_file(net: str | os.PathLike[str]) -> Path:
    """The file of a network of the package, by its name, or of a user's own, by its path."""
    return WEIGHTS / f"{net}.safetensors" if net in SHIPPED else Path(net)


def write_weights(path: Path, net: nn.Module, header: dict[str, str]) -> None:
    """Write the state of ``net`` as safetensors, atomically, with ``header`` as its metadata."""
    for name, value in header.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} must be text, as all metadata of a weight file, got {shown(value)}")
    weights = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    write_atomically(path, lambda file: file.write(save(weights, header)))


def read_weights(path: Path, argument: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors, on the CPU, of a safetensors file; errors call it ``argument``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a complete safetensors file (but a pickle, say).
    """
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: no weight file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # safe_open is not a dict and cannot be iterated over
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(
            f"{argument}: {path} must be a complete safetensors file (pickled weights are refused): {error}"
        ) from error


def read_release(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that the authors released, or that training with their code made.

    See :meth:`InverseTransformNet.from_release`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"release: no weight file at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise nearly any exception
        raise ValueError(
            f"release: {path} must be a complete file of nothing but tensors that PyTorch saved (a pickle with code in "
            f"it is refused, and nothing in it is run), but reading it raised {type(error).__name__}"
        ) from error
    weights = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"release: {path} must hold a state dict of tensors, or one under 'state_dict'")
    if all(name.startswith("module.") for name in weights):  # saved from nn.DataParallel
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return weights


def size_in(header: dict[str, str], name: str) -> int:
    """A size that a file's metadata names.

    Raises:
        KeyError: it is missing.
        ValueError: it is no whole number from 1 to ``LARGEST``.
    """
    text = header[name]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= LARGEST):
        raise ValueError(f"{name} must be a whole number from 1 to {LARGEST}, got {text[:20]!r}")
    return int(text)


def load_strictly(make: Callable[[], Net], weights: dict[str, Tensor], path: Path, argument: str) -> Net:
    """A new network, on the CPU, in float32, with ``weights``, which were read from ``path``.

    It is first made without memory, so that a file cannot ask for more than its tensors need.

    Raises:
        ValueError: a tensor is missing, superfluous or of another shape, or it holds anything but finite floats.
        RuntimeError: the caller puts every new module on the meta device.
    """
    with _plain_tensors("meta"):
        try:
            planned = make()
        except ValueError as error:
            raise ValueError(f"{argument}: {path} must name sizes that a network can have: {error}") from error
    _check_weights(planned, weights, path, argument)
    with _plain_tensors("cpu"):
        net = make()
    if any(tensor.is_meta for tensor in (*net.parameters(), *net.buffers())):
        raise RuntimeError(f"{argument}: {path} cannot be loaded while all modules are made on the meta device")
    net.load_state_dict(weights)
    return net.eval()


@contextmanager
def _plain_tensors(device: str) -> Iterator[None]:
    """Tensors are made on ``device`` in float32, whatever the defaults are: whole models are made on meta, or in
    bfloat16."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(dtype)


def _check_weights(net: nn.Module, weights: dict[str, Tensor], path: Path, argument: str) -> None:
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = [
        f"{k} {found.get(k, 'missing')}, not {expected.get(k, 'present')}"
        for k in sorted({*expected, *found})
        if expected.get(k) != found.get(k)
    ]
    if wrong:
        raise ValueError(f"{argument}: the tensors of {path} must be those of {type(net).__name__}: {'; '.join(wrong)}")
    for name, value in weights.items():
        if not value.is_floating_point() or not value.float().isfinite().all():
            raise ValueError(f"{argument}: the tensors of {path} must hold finite floats, but {name} does not")
