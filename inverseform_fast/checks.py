"""What the public functions demand: each error names the argument, what it must be and what it was.

Checks of a single argument come first, then ``check_<op>`` for each op whose arguments depend on each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .reference.align import CELL, weight_shapes

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


def check_align(predicted: Tensor, target: Tensor, weights: Sequence[Tensor]) -> None:
    check_maps(predicted, "predicted", channels=1)
    height, tile = predicted.shape[-2:]
    if height != tile or tile % CELL:
        raise ValueError(f"predicted must be square, of a multiple of {CELL} pixels, got {tuple(predicted.shape)}")
    check_like("target", target, "predicted", predicted)
    shapes = weight_shapes(tile)
    if [tuple(weight.shape) for weight in weights] != shapes:
        raise ValueError(f"weights must have shapes {shapes}, got {[tuple(weight.shape) for weight in weights]}")
    for weight in weights:
        check_same_device("weights", weight, "predicted", predicted)


def check_extract_tiles(
    predicted: Tensor, target: Tensor, size: Sequence[int], tile: int, activation: str | None
) -> None:
    check_maps(predicted, "predicted", channels=1)
    check_tensor(target, "target")
    if target.ndim != 4 or target.shape[:2] != (predicted.shape[0], 1) or 0 in target.shape[2:]:
        raise ValueError(f"target must have shape ({predicted.shape[0]}, 1, H, W), got {tuple(target.shape)}")
    check_same_device("target", target, "predicted", predicted)
    check_size(size)
    if not isinstance(tile, int) or tile < 1:
        raise ValueError(f"tile must be a whole number of pixels, at least 1, got {tile!r}")
    if size[0] % tile or size[1] % tile:
        raise ValueError(f"size must be multiples of tile, got size {tuple(size)} and tile {tile}")
    check_activation(activation)


def check_geodesic_distance(
    theta: Tensor, theta_hat: Tensor, lam: float, normalize: str | None, smooth: float, damping: float
) -> None:
    check_matrices(theta, "theta")
    check_matrices(theta_hat, "theta_hat")
    check_same_device("theta_hat", theta_hat, "theta", theta)
    check_broadcast("theta_hat", theta_hat, "theta", theta)
    if normalize not in (None, "frobenius", "det"):
        raise ValueError(f"normalize must be None, 'frobenius' or 'det', got {normalize!r}")
    for name, value in (("lam", lam), ("smooth", smooth), ("damping", damping)):
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")


def check_homography_exp(a: Tensor) -> None:
    check_tensor(a, "a")
    if a.shape[-1:] != (8,):
        raise ValueError(f"a must have shape (..., 8), got {tuple(a.shape)}")
    if not a.is_floating_point():
        raise TypeError(f"a must be floating point, got {a.dtype}")


def check_homography_warp(image: Tensor, theta: Tensor, size: Sequence[int] | None, mode: str, padding: str) -> None:
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f"mode must be 'bilinear' or 'nearest', got {mode!r}")
    if padding not in ("zeros", "border"):
        raise ValueError(f"padding must be 'zeros' or 'border', got {padding!r}")
    check_tensor(image, "image")
    check_tensor(theta, "theta")
    if image.ndim != 4 or 0 in image.shape[2:]:
        raise ValueError(f"image must have shape (N, C, H, W), got {tuple(image.shape)}")
    if mode == "bilinear" and not image.is_floating_point():
        raise TypeError(f"image must be floating point for mode 'bilinear', got {image.dtype}")
    n = image.shape[0]
    one_or_more_views = theta.ndim in (3, 4) and theta.shape[0] == n and theta.shape[-2:] == (3, 3)
    if not one_or_more_views or not theta.is_floating_point():
        raise ValueError(
            f"theta must be floating point ({n}, 3, 3) or ({n}, T, 3, 3), got {theta.dtype} {tuple(theta.shape)}"
        )
    check_same_device("theta", theta, "image", image)
    check_size(size)


def check_local_correlation(first: Tensor, second: Tensor, reach: int, groups: int) -> None:
    check_maps(first, "first")
    check_like("second", second, "first", first)
    if not isinstance(reach, int) or reach < 0:
        raise ValueError(f"reach must be a whole number of cells, at least 0, got {reach!r}")
    if not isinstance(groups, int) or groups < 1 or first.shape[1] % groups:
        raise ValueError(f"groups must divide the {first.shape[1]} channels, got {groups!r}")


def check_segmentation_loss(logits: Tensor, labels: Tensor, class_weights: Tensor | None, ignore_index: int) -> None:
    check_maps(logits, "logits")
    check_labels(labels, batch=logits.shape[0])
    check_same_device("labels", labels, "logits", logits)
    classes = logits.shape[1]
    if class_weights is not None:
        check_tensor(class_weights, "class_weights")
        if class_weights.shape != (classes,):
            raise ValueError(
                f"class_weights must have shape ({classes},), one per channel of logits, "
                f"got {tuple(class_weights.shape)}"
            )
        check_same_device("class_weights", class_weights, "logits", logits)
    # On a GPU this check would wait for the device; the loss is NaN there instead.
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_class_ids(labels, classes, ignore_index)


def _check_class_ids(labels: Tensor, classes: int, ignore_index: int) -> None:
    ids = labels.long()  # in a narrow dtype, a comparison would wrap the other number around
    outside = (ids != ignore_index) & ((ids < 0) | (ids >= classes))
    if outside.any():
        found = labels[outside].unique().tolist()
        raise ValueError(f"labels must lie in [0, {classes}) or be ignore_index={ignore_index}, found {found[:10]}")
