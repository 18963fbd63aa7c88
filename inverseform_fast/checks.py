"""What the public functions demand: each error names the argument, what it must be and what it was.

Checks of a single argument come first, then ``check_<op>`` for each op whose arguments depend on each other. A check of
a number returns it as Python's own type, because NumPy's are taken, too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .reference.align import CELL, weight_shapes

LABEL_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOAT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
VOID = 255  # of a boundary map, as in reference/boundary_map.py
_BELOW = 2**31  # of whole numbers: the kernels count in 32 bits
_EXACT = 2**24  # float32 holds all whole numbers up to here
_ROUNDING = 0.01  # of a probability, in 16 bits
_HEAVIEST = 1e28  # of class weights: their sum over all pixels must be a float32


def shown(value: object) -> str:
    """A value as an error message shows it: in one short line."""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{type(value).__name__} of {value.dtype} {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]}..."


def readable(tensor: Tensor) -> bool:
    """Whether a check may read values: it would wait for a GPU, and there are none while a program is traced."""
    return (
        tensor.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and not isinstance(tensor, FakeTensor)
    )


def check_tensor(value: object, name: str) -> None:
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_nested:
            got = "a nested one" if value.is_nested else f"layout {value.layout}, of which to_dense() makes one"
            raise TypeError(f"{name} must be an ordinary, dense tensor, got {got}")
        return
    hint = ""
    if isinstance(value, np.ndarray):
        hint = ": torch.from_numpy makes one of it"
    elif isinstance(value, Mapping):
        hint = f": pass on one of its values, {shown(list(value))}"
    elif isinstance(value, (list, tuple)):
        hint = ": pass on one of its items, or torch.tensor of it"
    raise TypeError(f"{name} must be a tensor, got {type(value).__name__}{hint}")


def check_floating(tensor: Tensor, name: str) -> None:
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
    if tensor.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}")


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
    check_floating(maps, name)


def check_labels(labels: Tensor, batch: int | None = None) -> None:
    check_tensor(labels, "labels")
    if labels.dtype not in LABEL_DTYPES:
        raise TypeError(f"labels must be of an integer dtype (uint8, int8, int16, int32, int64), got {labels.dtype}")
    if labels.ndim != 3 or 0 in labels.shape[1:] or batch not in (None, labels.shape[0]):
        expected = "N" if batch is None else batch
        raise ValueError(f"labels must have shape ({expected}, H, W), got {tuple(labels.shape)}")


def check_matrices(matrix: Tensor, name: str) -> None:
    check_tensor(matrix, name)
    if matrix.shape[-2:] != (3, 3) or matrix.dtype not in FLOAT_DTYPES:
        raise ValueError(
            f"{name} must be floating point of shape (..., 3, 3), got {matrix.dtype} {tuple(matrix.shape)}"
        )


def check_motion(motion: Tensor, batch: int) -> None:
    check_tensor(motion, "motion")
    if motion.ndim != 4 or motion.shape[0] != batch or motion.shape[3] != 8 or 0 in motion.shape[1:3]:
        raise ValueError(f"motion must have shape ({batch}, rows, columns, 8), got {tuple(motion.shape)}")
    check_floating(motion, "motion")


def check_holds(labels: Tensor, ignore_index: int) -> int:
    limits = torch.iinfo(labels.dtype)
    if not limits.min <= ignore_index <= limits.max:
        raise ValueError(f"labels must be of a dtype that holds ignore_index={ignore_index}, got {labels.dtype}")
    return ignore_index


def check_rows(rows: Tensor, name: str, width: int) -> None:
    check_tensor(rows, name)
    if rows.shape[-1:] != (width,):
        raise ValueError(f"{name} must have shape (..., {width}), got {tuple(rows.shape)}")
    check_floating(rows, name)


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, torch.SymInt, np.integer)) and not isinstance(value, bool)


def check_whole(value: Any, name: str, least: int, unit: str = "") -> int:
    if type(value) is int and least <= value < _BELOW:  # as nearly always
        return value
    if not _is_whole(value) or not least <= value < _BELOW:
        bound = "below 2^31" if _is_whole(value) and value >= least else f"at least {least}"
        raise ValueError(f"{name} must be a whole number{unit}, {bound}, got {shown(value)}")
    return int(value) if isinstance(value, np.integer) else value


def check_radius(radius: int) -> int:
    return check_whole(radius, "radius", 1, " of pixels")


def check_ignore_index(ignore_index: int) -> int:
    if type(ignore_index) is int and abs(ignore_index) < _BELOW:  # as nearly always
        return ignore_index
    if not _is_whole(ignore_index) or not -(2**63) <= ignore_index < 2**63:
        raise ValueError(f"ignore_index must be a whole number of 64 bits, got {shown(ignore_index)}")
    return int(ignore_index) if isinstance(ignore_index, np.integer) else ignore_index


def check_number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    try:
        return value if isinstance(value, int) and abs(value) < _BELOW else float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def check_weight(value: Any, name: str) -> float:
    number = check_number(value, name)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {number}")
    return number


def check_size(size: Sequence[int] | None, name: str = "size") -> tuple[int, int]:
    if torch.jit.is_tracing():  # sizes are tensors then
        raise RuntimeError(
            "torch.jit.trace cannot record this: trace the model without its loss, or use torch.compile or torch.export"
        )
    pair: Any = size.tolist() if isinstance(size, np.ndarray) else size
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(_is_whole(s) and 1 <= s < _BELOW for s in pair):
        raise ValueError(f"{name} must be (height, width) in pixels, got {shown(size)}")
    height, width = (int(s) if isinstance(s, np.integer) else s for s in pair)
    if height * width >= _BELOW:
        raise ValueError(f"{name} must be of fewer than 2^31 pixels, got {height} x {width}")
    return height, width


def check_choice(value: object, name: str, choices: Sequence[str | None]) -> None:
    if not isinstance(value, (str, type(None))) or value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {shown(value)}")


def check_flag(value: object, name: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def check_path(path: object, name: str) -> None:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {shown(path)}")


def check_activation(activation: str | None) -> None:
    check_choice(activation, "activation", ("sigmoid", None))


def check_class_weights(class_weights: Tensor, classes: int | None = None) -> None:
    """Check everything but the values, which :func:`check_weights_are_positive` reads."""
    check_tensor(class_weights, "class_weights")
    if class_weights.ndim != 1 or classes not in (None, len(class_weights)):
        raise ValueError(
            f"class_weights must have shape ({classes or 'C'},), one per channel of logits, "
            f"got {tuple(class_weights.shape)}"
        )
    if class_weights.is_complex() or class_weights.dtype == torch.bool:
        raise TypeError(f"class_weights must be numbers, got {class_weights.dtype}")


def check_weights_are_positive(class_weights: Tensor) -> None:
    known = class_weights.detach().double()
    if not isinstance(known, FakeTensor) and not ((known >= 0) & (known <= _HEAVIEST)).all():
        got = known.tolist()[:10]
        raise ValueError(f"class_weights must be finite, at least 0 and at most {_HEAVIEST:g}, got {got}")


def check_sums(sums: Tensor, name: str, shape: tuple[int, ...], other_name: str, other: Tensor) -> Tensor:
    check_tensor(sums, name)
    if sums.shape != shape or sums.dtype != torch.float64:
        raise ValueError(f"{name} must be float64 of shape {shape}, got {sums.dtype} {tuple(sums.shape)}")
    check_same_device(name, sums, other_name, other)
    return sums.detach().contiguous()


def check_align(predicted: Tensor, target: Tensor, weights: Sequence[Tensor]) -> None:
    check_maps(predicted, "predicted", channels=1)
    height, tile = predicted.shape[-2:]
    if height != tile or tile % CELL:
        raise ValueError(f"predicted must be square, of a multiple of {CELL} pixels, got {tuple(predicted.shape)}")
    check_like("target", target, "predicted", predicted)
    if not isinstance(weights, Sequence) or not all(isinstance(weight, Tensor) for weight in weights):
        raise TypeError(f"weights must be a list of tensors, got {shown(weights)}")
    shapes = weight_shapes(tile)
    if [tuple(weight.shape) for weight in weights] != shapes:
        raise ValueError(f"weights must have shapes {shapes}, got {[tuple(weight.shape) for weight in weights]}")
    for weight in weights:
        check_same_device("weights", weight, "predicted", predicted)


def check_tiles(predicted: Tensor, target: Tensor, tile: int) -> None:
    check_maps(predicted, "predicted", channels=1)
    if predicted.shape[2:] != (tile, tile):
        raise ValueError(f"predicted must have shape (N, 1, {tile}, {tile}), got {tuple(predicted.shape)}")
    check_like("target", target, "predicted", predicted)


def check_boundaries(predicted: Tensor, target: Tensor, name: str = "predicted") -> None:
    check_maps(predicted, name, channels=1)
    check_tensor(target, "target")
    if target.ndim != 4 or target.shape[:2] != (predicted.shape[0], 1) or 0 in target.shape[2:]:
        raise ValueError(f"target must have shape ({predicted.shape[0]}, 1, H, W), got {tuple(target.shape)}")
    if target.dtype not in (*LABEL_DTYPES, *FLOAT_DTYPES, torch.bool):
        raise TypeError(f"target must be of an integer or a floating-point dtype, got {target.dtype}")
    check_same_device("target", target, name, predicted)


def check_probabilities(maps: Tensor, name: str) -> None:
    beyond = maps.detach().float()
    beyond = beyond[(beyond < -_ROUNDING) | (beyond > 1 + _ROUNDING)]
    if len(beyond):
        raise ValueError(f"{name} must be probabilities, 0 to 1, if there is no activation, got {beyond[0].item():g}")


def check_extract_tiles(
    predicted: Tensor, target: Tensor, size: Sequence[int], tile: int, activation: str | None
) -> tuple[tuple[int, int], int]:
    check_boundaries(predicted, target)
    size, tile = check_size(size), check_whole(tile, "tile", 1, " of pixels")
    if size[0] % tile or size[1] % tile:
        raise ValueError(f"size must be multiples of tile, got size {size} and tile {tile}")
    check_activation(activation)
    if readable(target):
        _check_boundary_values(target)
    return size, tile


def _check_boundary_values(target: Tensor) -> None:
    known = (target == 0) | (target == 1)
    if target.dtype not in (torch.int8, torch.bool):  # these would wrap 255 around
        known |= target == VOID
    if not known.all():
        found = target[~known].unique().tolist()
        raise ValueError(f"target must hold 0 (none), 1 (boundary) and {VOID} (void) only, found {found[:10]}")


def check_geodesic_distance(
    theta: Tensor, theta_hat: Tensor, lam: float, normalize: str | None, smooth: float, damping: float
) -> tuple[float, float, float]:
    check_matrices(theta, "theta")
    check_matrices(theta_hat, "theta_hat")
    check_same_device("theta_hat", theta_hat, "theta", theta)
    check_broadcast("theta_hat", theta_hat, "theta", theta)
    check_choice(normalize, "normalize", (None, "frobenius", "det"))
    return check_weight(lam, "lam"), check_weight(smooth, "smooth"), check_weight(damping, "damping")


def check_homography_warp(image: Tensor, theta: Tensor, mode: str, padding: str) -> None:
    check_choice(mode, "mode", ("bilinear", "nearest"))
    check_choice(padding, "padding", ("zeros", "border"))
    check_tensor(image, "image")
    check_tensor(theta, "theta")
    if image.ndim != 4 or 0 in image.shape[2:]:
        raise ValueError(f"image must have shape (N, C, H, W), got {tuple(image.shape)}")
    if mode == "bilinear" and image.dtype not in FLOAT_DTYPES:
        raise TypeError(f"image must be floating point for mode 'bilinear', got {image.dtype}")
    if image.is_complex():
        raise TypeError(f"image must be real, got {image.dtype}")
    n = image.shape[0]
    one_or_more_views = theta.ndim in (3, 4) and theta.shape[0] == n and theta.shape[-2:] == (3, 3)
    if not one_or_more_views or theta.dtype not in FLOAT_DTYPES:
        raise ValueError(
            f"theta must be floating point ({n}, 3, 3) or ({n}, T, 3, 3), got {theta.dtype} {tuple(theta.shape)}"
        )
    check_same_device("theta", theta, "image", image)
    if image.dtype in (torch.int32, torch.int64, torch.uint32, torch.uint64) and readable(image):
        _check_exact(image)


def _check_exact(image: Tensor) -> None:
    known = image.double()  # PyTorch compares no uint32 and no uint64
    if len(far := image[(known > _EXACT) | (known < -_EXACT)]):
        raise ValueError(f"image must hold whole numbers up to 2^24, got {far[0].item()}")


def check_local_correlation(first: Tensor, second: Tensor, reach: int, groups: int) -> tuple[int, int]:
    check_maps(first, "first")
    check_like("second", second, "first", first)
    reach = check_whole(reach, "reach", 0, " of cells")
    if not _is_whole(groups) or groups < 1 or first.shape[1] % groups:
        raise ValueError(f"groups must divide the {first.shape[1]} channels, got {shown(groups)}")
    if (numbers := int(groups) * (2 * reach + 1) ** 2 * first.shape[2] * first.shape[3]) >= _BELOW:
        raise ValueError(f"reach must ask for fewer than 2^31 numbers of an image, got {reach}, which are {numbers}")
    return reach, int(groups)


def check_segmentation_loss(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None, ignore_index: int, name: str = "logits"
) -> int:
    check_maps(logits, name)
    check_labels(labels, batch=logits.shape[0])
    check_same_device("labels", labels, name, logits)
    ignore_index = check_ignore_index(ignore_index)
    if class_weights is not None:
        check_class_weights(class_weights, logits.shape[1])
        check_same_device("class_weights", class_weights, name, logits)
        if readable(class_weights):
            check_weights_are_positive(class_weights)
    # On a GPU this check would wait for the device; the loss is NaN there instead.
    if readable(labels):
        check_class_ids(labels, logits.shape[1], ignore_index)
    return ignore_index


def check_class_ids(labels: Tensor, classes: int, ignore_index: int) -> None:
    ids = labels.long()  # in a narrow dtype, a comparison would wrap the other number around
    outside = (ids != ignore_index) & ((ids < 0) | (ids >= classes))
    if outside.any():
        found = labels[outside].unique().tolist()
        hint = f". {TWO_CHANNELS}" if classes == 1 else ""
        raise ValueError(
            f"labels must lie in [0, {classes}) or be ignore_index={ignore_index}, found {found[:10]}{hint}"
        )


TWO_CHANNELS = "For an object and its background, give two channels: torch.cat((torch.zeros_like(logits), logits), 1)"


def check_two_classes(logits: Tensor, name: str) -> None:
    if logits.shape[1] < 2:
        raise ValueError(f"{name} must have one channel per class, at least 2, got {logits.shape[1]}. {TWO_CHANNELS}")
