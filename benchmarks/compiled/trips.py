"""How often each loop of a kernel's machine code runs, and how much of its tensors a launch touches.

The table names the loops of the sm_90 code in the order of their first addresses; a loop within another comes after it,
and its trips are those of one pass through the outer one. A kernel that is not named has no loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from benchmarks.compiled.cubins import Launch
from inverseform_fast.kernels.align_sizes import MATCH_GROUP, NORM_GROUP, SPAN, K
from inverseform_fast.kernels.strips import SEGMENT

Count = Callable[[dict[str, Any]], float]  # of a launch's arguments by name


def _argument(name: str) -> Count:
    return lambda arguments: int(arguments[name])


def _fixed(count: int) -> Count:
    return lambda _: count


def _blocks_of(name: str, size: int) -> Count:
    return lambda arguments: -(-arguments[name] // size)


def _window(arguments: dict[str, Any]) -> float:
    return int(2 * arguments["reach"] + 1)


def _windows_unrolled(arguments: dict[str, Any]) -> float:
    return _window(arguments) // 4  # The compiler makes four rows of the window in a trip.


def _windows_left(arguments: dict[str, Any]) -> float:
    return _window(arguments) % 4


def _rows_of_segment(margins: int) -> Count:
    """The rows that a program walks down: its segment, which may be shorter, and so many radii."""
    return lambda a: min(SEGMENT.value, a.get("rows", a["full_height"])) + margins * a["RADIUS"]


def _cells_of_segment(margins: int) -> Count:
    return lambda a: math.ceil(_rows_of_segment(margins)(a) / _rows_of_cell(a))


def _rows_of_cell(arguments: dict[str, Any]) -> float:
    return float(arguments["full_height"] / arguments["height"])


def _norm_blocks(unrolled: int) -> Count:
    """The passes over a group of channels, of which the compiler makes ``unrolled`` in a trip."""
    return lambda arguments: -(-NORM_GROUP.value * arguments["cells"] // arguments["BLOCK"]) // unrolled


def _blocks_unrolled(arguments: dict[str, Any]) -> float:
    return int(arguments["blocks"]) // 4  # The compiler makes four of the programs' sums in a trip.


def _blocks_left(arguments: dict[str, Any]) -> float:
    return int(arguments["blocks"]) % 4


CLASSES, CHANNELS, TAPS = _argument("classes"), _argument("channels"), _fixed(9)
ROWS_OF_OFFSETS = _fixed(SPAN.value)
SUMS = _blocks_of("programs", 1024)  # of resize.column_total

TRIPS: dict[str, tuple[Count, ...]] = {
    "segmentation_loss": (CLASSES, CLASSES, CLASSES),
    "mean_loss": (SUMS, SUMS),
    "balanced_loss": (SUMS, SUMS, SUMS, SUMS),
    "boundary_map_sliding_window": (lambda arguments: arguments["ROWS"] // arguments["STEP"],),
    "sums_of_classes": (CLASSES, CLASSES, CLASSES),
    "totals_of_classes": (SUMS,),
    "dice_loss_backward": (CLASSES, CLASSES, CLASSES),
    "kinds_of_pixels": (_rows_of_segment(2),),
    "near_along_x": (_window,),
    "near_along_y": (_windows_unrolled, _windows_left),
    "largest_and_scales": (CLASSES, CLASSES),
    "sums_of_boundaries": (_cells_of_segment(2), _rows_of_cell),
    "boundary_f1_loss_backward": (_cells_of_segment(4), _rows_of_cell),
    "add_gradient_of_band": (_argument("parts_y"), CLASSES, CLASSES),
    "soft_boundary_map": (CHANNELS, CHANNELS, CHANNELS),
    "soft_boundary_map_backward": (CHANNELS, CHANNELS, CHANNELS, CHANNELS),
    "extract_tiles": (_argument("ROWS"),),
    "first_layer": (TAPS,),
    "second_layer": (TAPS,),
    "group_norm": (_norm_blocks(4), _norm_blocks(4), _norm_blocks(1)),
    "correlation_layer": (ROWS_OF_OFFSETS, _fixed(MATCH_GROUP.value)),
    "equations": (TAPS,),
    "solve": (_blocks_unrolled, _blocks_left, _fixed(K.value)),
    "homography_exp_backward": (_fixed(7), _fixed(5)),
    "equations_backward": (_fixed(K.value), TAPS),
    "hidden_layers_backward": (TAPS, _fixed(SPAN.value + 1)),
    "correlation_backward": (ROWS_OF_OFFSETS, _fixed(SPAN.value)),
    "group_norm_backward": (_blocks_of("cells", 128), _blocks_of("cells", 128)),
    "second_layer_backward": (_fixed(4),),
    "first_layer_backward": (TAPS,),
}


def _band(arguments: dict[str, Any]) -> float:
    """The share of the rows of a map that a launch for one band takes."""
    return float(arguments["rows"] / arguments["full_height"])


def _rows_of(part: str, whole: str) -> Count:
    """The share of the maps whose gradient is wanted: those of both sides, or of one."""
    return lambda arguments: float(len(arguments[part]) / len(arguments[whole]))


# How much of a tensor a launch reads or writes, where it is not the whole, once.
TOUCHED: dict[str, dict[str, Count]] = {
    "soft_boundary_map_backward": {"logits": _band, "grad_log": _band},
    "kinds_of_pixels": dict.fromkeys(("largest", "scales"), _fixed(0)),  # next to nothing
    "boundary_f1_loss_backward": dict.fromkeys(("logits", "kinds", "near", "largest", "scales"), _band),
    "add_gradient_of_band": dict.fromkeys(("logits", "kinds", "largest", "scales"), _band)
    | {"grad": lambda arguments: 2 * _band(arguments)},  # adds to it
    "upsample_band_backward": {"grad_logits": lambda arguments: 2 * _band(arguments)},  # adds to it
    "homography_warp_backward": {"grad_fixed": _fixed(2)},  # adds to it
    "group_norm_backward": dict.fromkeys(("raw", "second_linear", "statistics"), _rows_of("grad", "raw")),
    "second_layer_backward": {"first_linear": _rows_of("grad_first", "first_linear")},
}


def trips(launch: Launch, loops: int) -> list[int]:
    """How often each of the ``loops`` loops of the launch's machine code runs.

    Raises:
        ValueError: the table names another number of loops.
    """
    counts = TRIPS.get(launch.name, ())
    if len(counts) != loops:
        raise ValueError(
            f"TRIPS of benchmarks/compiled/trips.py must name the {loops} loops of the sm_90 code of {launch.name}, "
            f"got {len(counts)}"
        )
    return [int(count(_named(launch))) for count in counts]


def bytes_touched(launch: Launch) -> int:
    """The bytes that a launch must read and write, each once."""
    arguments = _named(launch)
    shares = TOUCHED.get(launch.name, {})
    tensors = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
    return round(sum(shares.get(name, _fixed(1))(arguments) * tensor.nbytes for name, tensor in tensors.items()))


def _named(launch: Launch) -> dict[str, Any]:
    return dict(zip(launch.kernel.arg_names, launch.arguments, strict=False)) | launch.options
