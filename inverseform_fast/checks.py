"""What the public functions demand: each error names the argument, what it must be and what it was."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LABEL_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_tensor(value: object, name: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")


def check_same_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.device != other.device:
        raise ValueError(f"{name} must be on the device of {other_name}, {other.device}, got {tensor.device}")


def check_like(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    check_tensor(tensor, name)
    if tensor.shape != other.shape or tensor.dtype != other.dtype:
        raise ValueError(
            f"{name} must be like {other_name}, {other.dtype} {tuple(other.shape)}, "
            f"got {tensor.dtype} {tuple(tensor.shape)}"
        )
    check_same_device(name, tensor, other_name, other)


def check_broadcast(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    sizes = zip(reversed(tensor.shape), reversed(other.shape), strict=False)  # an absent dimension is one of size 1
    if any(1 not in pair and pair[0] != pair[1] for pair in sizes):
        raise ValueError(f"{name} must broadcast with {other_name} {tuple(other.shape)}, got {tuple(tensor.shape)}")


def check_maps(maps: Tensor, name: str, channels: int | None = None) -> None:
    check_tensor(maps, name)
    if maps.ndim != 4 or 0 in maps.shape[1:] or channels not in (None, maps.shape[1]):
        raise ValueError(f"{name} must have shape (N, {channels or 'C'}, h, w), got {tuple(maps.shape)}")
    if not maps.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {maps.dtype}")


def check_labels(labels: Tensor, batch: int | None = None) -> None:
    check_tensor(labels, "labels")
    if labels.dtype not in LABEL_DTYPES:
        raise TypeError(f"labels must be of an integer dtype (uint8, int8, int16, int32, int64), got {labels.dtype}")
    if labels.ndim != 3 or 0 in labels.shape[1:] or batch not in (None, labels.shape[0]):
        expected = "N" if batch is None else batch
        raise ValueError(f"labels must have shape ({expected}, H, W), got {tuple(labels.shape)}")


def check_matrices(matrix: Tensor, name: str) -> None:
    check_tensor(matrix, name)
    if matrix.shape[-2:] != (3, 3) or not matrix.is_floating_point():
        raise ValueError(
            f"{name} must be floating point of shape (..., 3, 3), got {matrix.dtype} {tuple(matrix.shape)}"
        )


def check_radius(radius: int) -> None:
    if not isinstance(radius, int) or radius < 1:
        raise ValueError(f"radius must be a whole number of pixels, at least 1, got {radius!r}")


def check_size(size: Sequence[int] | None) -> None:
    if size is None:
        return
    if not isinstance(size, Sequence) or len(size) != 2 or not all(isinstance(s, int) and s >= 1 for s in size):
        raise ValueError(f"size must be (height, width) in pixels, got {size!r}")


def check_activation(activation: str | None) -> None:
    if activation not in ("sigmoid", None):
        raise ValueError(f"activation must be 'sigmoid' or None, got {activation!r}")
