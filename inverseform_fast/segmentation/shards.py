"""A checkpoint in parts: each process writes its part of every tensor into a file of its own.

``torch.distributed.checkpoint`` writes the files, and reads them on any number of processes. Of its two formats this is
safetensors; the other one is read by unpickling, which could run code.
"""

from __future__ import annotations

import hashlib
import mmap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from ..states import not_finite
from .processes import share_of

T = TypeVar("T")
_FILES = "shard-?????-model-00001-of-00001.safetensors"  # one of each process, named by PyTorch


def write_shards(out: Path, step: int, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Writes tensors, of which each process has a part, into a new folder in ``out``; all processes must call this.

    A tensor that is not sharded is written as the first process has it.

    Returns:
        The digest of each file, by its path in ``out``.

    Raises:
        FloatingPointError: a number is not finite.
        OSError: a process cannot write its file.
    """
    is_first = dist.get_rank() == 0
    own = {name: value for name, value in tensors.items() if is_first or isinstance(value, DTensor)}
    if name := not_finite({name: _local(value) for name, value in own.items()}):
        raise FloatingPointError(f"the state must hold finite numbers, but {name} does not")
    folder = out / f"shards-{step}"
    if is_first:  # a run may have been killed before its checkpoint was whole
        _remove(folder)
    dist.barrier()  # nobody makes the folder while it is removed
    with _own_error():
        dcp.save(own, storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))
    files = sorted(folder.glob(_FILES))
    digests: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(digests, {_name(files[i]): _digest(files[i]) for i in share_of(len(files))})
    return {name: digest for each in digests for name, digest in each.items()}


def check_shards(out: Path, shards: Mapping[str, str]) -> None:
    """Checks that files are there, and as they were written; each process checks its share, and all must call this.

    Args:
        out: the folder that was given to :func:`write_shards`.
        shards: what it returned.

    Raises:
        FileNotFoundError, ValueError: a file is missing or damaged.
    """
    names = sorted(shards)
    _verify(out, {names[i]: shards[names[i]] for i in share_of(len(names))})
    dist.barrier()


def read_shards(out: Path, shards: Mapping[str, str], tensors: dict[str, Tensor]) -> None:
    """Reads this process's parts of sharded tensors, and whole ones, in place; all processes must call this.

    Raises:
        ValueError: a tensor has another size.
    """
    with _own_error():
        dcp.load(tensors, storage_reader=_reader(out, shards))


def read_whole(out: Path, shards: Mapping[str, str]) -> dict[str, Tensor]:
    """Reads the whole tensors onto the CPU, in one process; arguments and errors are those of :func:`check_shards`."""
    _verify(out, shards)
    tensors = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in contents(out, shards).items()}
    with _own_error(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load(tensors, storage_reader=_reader(out, shards), no_dist=True)
    return tensors


def contents(out: Path, shards: Mapping[str, str]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Returns size and dtype of each whole tensor in the files, by name."""
    found = _reader(out, shards).read_metadata().state_dict_metadata
    tensors = {name: value for name, value in found.items() if isinstance(value, TensorStorageMetadata)}
    return {name: (value.size, value.properties.dtype) for name, value in tensors.items()}


def remove_shards(out: Path, kept: Mapping[str, str]) -> None:
    """Removes all folders of :func:`write_shards` in ``out`` but the one that it returned ``kept`` of."""
    for folder in set(out.glob("shards-*")) - {(out / name).parent for name in kept}:
        _remove(folder)


def flattened(model: Mapping[str, T], moments: Mapping[int, Mapping[str, T]]) -> dict[str, T]:
    """Gives the tensors of a model and of the state of its optimizer names of one dict."""
    of_optimizer = {f"optimizer.{index}.{name}": value for index, own in moments.items() for name, value in own.items()}
    return {f"model.{name}": value for name, value in model.items()} | of_optimizer


def unflattened(tensors: Mapping[str, T]) -> tuple[dict[str, T], dict[int, dict[str, T]]]:
    """Is the inverse of :func:`flattened`."""
    model: dict[str, T] = {}
    moments: dict[int, dict[str, T]] = {}
    for key, value in tensors.items():
        owner, _, name = key.partition(".")
        if owner == "model":
            model[name] = value
        else:
            index, _, name = name.partition(".")
            moments.setdefault(int(index), {})[name] = value
    return model, moments


def _remove(folder: Path) -> None:
    """Removes the files that processes have written, and the folder if there is nothing else in it."""
    for file in folder.glob(_FILES):
        file.unlink()
    with suppress(OSError):
        folder.rmdir()


def _reader(out: Path, shards: Mapping[str, str]) -> dcp.HuggingFaceStorageReader:
    return dcp.HuggingFaceStorageReader(str((out / next(iter(shards))).parent))


def _verify(out: Path, shards: Mapping[str, str]) -> None:
    for name, digest in shards.items():
        if not (out / name).is_file():
            raise FileNotFoundError(f"{out / name} is missing, which holds a part of the checkpoint")
        if _digest(out / name) != digest:
            raise ValueError(f"{out / name} must be a part of the checkpoint, but its checksum says that it is damaged")


def _digest(path: Path) -> str:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return hashlib.sha256(content).hexdigest()


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


@contextmanager
def _own_error() -> Iterator[None]:
    """Raises, on all processes, the error of the process that failed, in place of one that lists tracebacks."""
    try:
        yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error
