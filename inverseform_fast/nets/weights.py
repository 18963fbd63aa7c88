"""Weight files: they are whole or absent, hold nothing but finite tensors, and are loaded strictly."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
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
from ..states import not_finite, verify_archive

WEIGHTS = Path(__file__).parents[1] / "weights"  # the package's own weight files
SHIPPED = ("compact", "predictions")
_DIGEST = "sha256"  # of all else in a file, among its metadata
_NAMED = 8  # wrong tensors in an error message
LARGEST = 4096  # of the sizes that a file names: a tile beyond this is an image

Net = TypeVar("Net", bound=nn.Module)


def weight_file(net: str | os.PathLike[str]) -> Path:
    """The file of a network of the package, by its name, or of a user's own, by its path."""
    return WEIGHTS / f"{net}.safetensors" if net in SHIPPED else Path(net)


def write_weights(path: Path, net: nn.Module, header: dict[str, str]) -> None:
    """Write the state of ``net`` as safetensors, atomically, with ``header`` and a digest as its metadata.

    Raises:
        FloatingPointError: a weight is not finite. ``path`` stays as it is.
        TypeError: metadata that are no text.
    """
    for entry, value in header.items():
        if not isinstance(value, str):
            raise TypeError(f"{entry} must be text, as all metadata of a weight file, got {shown(value)}")
    weights = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    if name := not_finite(weights):
        raise FloatingPointError(f"the weights for {path} must be finite, but {name} is not")
    header = {**header, _DIGEST: _digest(header, weights)}
    write_atomically(path, lambda file: file.write(save(weights, header)))


def _digest(header: dict[str, str], weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_weights(path: Path, argument: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors, on the CPU, of a safetensors file; errors call it ``argument``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a complete safetensors file (but a pickle, say), or its digest says that it is damaged.
            A file of an earlier version has no digest.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: no weight file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # safe_open is not a dict and cannot be iterated over
            header, weights = file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, AttributeError) as error:  # the latter for a dtype that is unknown to this PyTorch
        raise ValueError(
            f"{argument}: {path} must be a complete safetensors file (pickled weights are refused): {error}"
        ) from error
    if (digest := header.pop(_DIGEST, None)) and digest != _digest(header, weights):
        raise ValueError(f"{argument}: {path} must be as it was written, but its digest says that it is damaged")
    return header, weights


def read_release(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that the authors released, or that training with their code made.

    See :meth:`InverseTransformNet.from_release`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"release: no weight file at {path}")
    try:
        if zipfile.is_zipfile(path):  # a file of PyTorch 1.5 or older is none, and has no checksums
            with path.open("rb") as file:
                verify_archive(file)
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


def load_strictly(net: nn.Module, weights: dict[str, Tensor], path: Path, argument: str) -> None:
    """Load ``weights``, read from ``path``.

    Raises:
        ValueError: a tensor is missing, superfluous, of another shape or dtype, or not finite; the message names it.
    """
    _check(net, weights, path, argument)
    net.load_state_dict(weights)


def make_with(make: Callable[[], Net], weights: dict[str, Tensor], path: Path, argument: str) -> Net:
    """A new network, on the CPU, in float32, with ``weights``, which were read from ``path``.

    It is first made without memory, so that a file cannot ask for more than its tensors need.

    Raises:
        ValueError: a tensor is missing, superfluous, of another shape or dtype, or not finite.
        RuntimeError: the caller puts every new module on the meta device.
    """
    with _plain_tensors("meta"):
        try:
            planned = make()
        except ValueError as error:
            raise ValueError(f"{argument}: {path} must name sizes that a network can have: {error}") from error
    _check(planned, weights, path, argument)
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


def _check(net: nn.Module, weights: dict[str, Tensor], path: Path, argument: str) -> None:
    expected = {name: _form(value) for name, value in net.state_dict().items()}
    found = {name: _form(value) for name, value in weights.items()}
    wrong = [
        f"{k} {found.get(k, 'missing')}, not {expected.get(k, 'present')}"
        for k in sorted({*expected, *found})
        if expected.get(k) != found.get(k)
    ]
    if wrong:
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        text = "; ".join(wrong[:_NAMED]) + more
        raise ValueError(f"{argument}: the tensors of {path} must be those of {type(net).__name__}: {text}")
    if name := not_finite(weights):
        raise ValueError(f"{argument}: the tensors of {path} must be finite, but {name} is not")


def _form(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
