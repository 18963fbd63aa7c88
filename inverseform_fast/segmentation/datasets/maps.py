"""Files that hold numbers for every pixel, such as depth and normals, are read and checked here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...checks import shown
from ..tasks.semantic import VOID
from .files import open_image

_FARTHEST = 100.0  # metres: larger numbers are of another unit
_SHORTEST, _LONGEST = 0.01, 1.1  # of a normal: 8 bits a number make 0 a little more, and 1 a little more or less


def check_axes(axes: Sequence[str]) -> Sequence[str]:
    """Returns the option ``normal_axes`` of a data set.

    Raises:
        ValueError: it is no list of x, y and z in some order, with or without a minus.
    """
    known = isinstance(axes, Sequence) and all(isinstance(axis, str) for axis in axes)
    if not known or sorted(axis.removeprefix("-") for axis in axes) != ["x", "y", "z"]:
        raise ValueError(f'normal_axes must be a list of x, y and z, such as ["x", "-y", "z"], got {shown(axes)}')
    return axes


def read_depth(path: Path) -> Tensor:
    """Reads depth in metres, 0 where it is missing: an ``.npy`` file, or the variable ``depth`` of a ``.mat`` file.

    Returns:
        (H, W) float32.

    Raises:
        ValueError: the file cannot be read, or holds something else; the message names it.
    """
    depth = _plane(load_mat(path, "depth") if path.suffix == ".mat" else load_npy(path), f"depth {path}")
    lowest, highest = depth.min(), depth.max()
    if not 0 <= lowest <= highest <= _FARTHEST:  # nor NaN
        raise ValueError(
            f"depth {path} must be in metres, from 0 (missing) to {_FARTHEST:g}, got {lowest:g} to {highest:g}"
        )
    return torch.from_numpy(depth.astype(np.float32))


def read_normals(path: Path, axes: Sequence[str] = ("x", "y", "z")) -> Tensor:
    """Reads normals: an ``.npy`` file of vectors (H, W, 3), or an RGB picture whose values are ``255 (n + 1) / 2``.

    A vector of length 0 is void, and so is a black pixel of a picture, which is no vector of length 1.

    Args:
        path: the file.
        axes: what the three numbers of a vector in the file are, such as ``("x", "-y", "z")``.

    Returns:
        (3, H, W) float32: unit vectors with x to the right, y up and z towards the camera, 255 where there is none.

    Raises:
        ValueError: the file cannot be read, or holds something else; the message names it.
    """
    vectors = load_npy(path) if path.suffix == ".npy" else _decoded(path)
    if vectors.ndim != 3 or vectors.shape[2] != 3 or vectors.dtype.kind not in "fiu":
        raise ValueError(f"normals {path} must be numbers (H, W, 3), got {vectors.dtype} {vectors.shape}")
    with np.errstate(all="ignore"):  # numbers that are too large become infinite
        vectors = vectors.astype(np.float32)
        length = np.linalg.norm(vectors, axis=2, keepdims=True)
    if not length.max() <= _LONGEST:  # nor NaN
        raise ValueError(f"normals {path} must be vectors of length 1, or 0 where missing, got {length.max():g}")
    places = [[name.removeprefix("-") for name in axes].index(axis) for axis in "xyz"]
    signs = np.array([-1 if axes[place].startswith("-") else 1 for place in places], np.float32)
    unit = vectors[..., places] * signs / np.maximum(length, _SHORTEST)
    normals = np.where(length < _SHORTEST, np.float32(VOID), unit).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(normals))


def _decoded(path: Path) -> np.ndarray:
    """Reads a picture of normals as vectors (H, W, 3), 0 where it is black."""
    picture, _ = open_image(path, "normals")
    if picture.mode != "RGB":
        raise ValueError(f"normals {path} must be a picture of three 8-bit channels, got mode {picture.mode}")
    values = np.array(picture)
    return np.where(values.any(2, keepdims=True), values / np.float32(127.5) - 1, 0)


def read_binary(path: Path) -> Tensor:
    """Reads a map of 0 and 1: an ``.npy`` file of these, or a picture of one 8-bit channel that is 1 above 127.

    Returns:
        (H, W) float32.

    Raises:
        ValueError: the file cannot be read, or holds something else; the message names it.
    """
    if path.suffix == ".npy":
        values = _plane(load_npy(path), f"map {path}")
        if not np.isin(values, (0, 1)).all():
            raise ValueError(f"map {path} must hold 0 and 1, got {values.min():g} to {values.max():g}")
        return torch.from_numpy(values.astype(np.float32))
    picture, _ = open_image(path, "map")
    if picture.mode != "L":
        raise ValueError(f"map {path} must be a picture of one 8-bit channel, got mode {picture.mode}")
    return torch.from_numpy((np.array(picture) > 127).astype(np.float32))


def _plane(array: np.ndarray, owner: str) -> np.ndarray:
    """Returns a map of numbers as (H, W); one with a last axis of length 1 will do."""
    plane = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if plane.ndim != 2 or not plane.size or plane.dtype.kind not in "fiub":
        raise ValueError(f"{owner} must be numbers (H, W), got {array.dtype} {array.shape}")
    return plane


def load_npy(path: Path) -> np.ndarray:
    """Reads a NumPy file of one array.

    Raises:
        ValueError: the file is none; the message names it.
        MemoryError: it is too large; the message names it.
    """
    with _reading(path, "a NumPy file of an array of numbers"):
        array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} must be a NumPy file of one array, got several: {', '.join(array)}")
    return array


def load_mat(path: Path, key: str) -> Any:
    """Reads a variable of a MATLAB file: an array, or for structures a dict.

    Raises:
        ValueError: the file is none, or has no such variable; the message names it.
        MemoryError: the variable is too large; the message names the file.
    """
    from scipy.io import loadmat, whosmat  # few data sets need SciPy

    with _reading(path, "a MATLAB file of a version before 7.3"):
        content = loadmat(path, variable_names=[key], simplify_cells=True)
        found = [name for name, *_ in whosmat(path)] if key not in content else []
    if key not in content:
        raise ValueError(f"{path} must hold the variable {key}, got {', '.join(found) or 'none'}")
    return content[key]


@contextmanager
def _reading(path: Path, form: str) -> Iterator[None]:
    """Lets errors of the library that reads a file name it, in one line, and say what it must be."""
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"{path} must fit into memory: {error}") from error
    except Exception as error:  # they raise OSError, ValueError, TypeError, tokenize.TokenError, zlib.error and more
        raise ValueError(f"{path} must be {form}: {' '.join(str(error).split())}") from error
