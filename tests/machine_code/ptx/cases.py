"""Calls of ops that together launch every Triton kernel as production does, on small inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from three_way import random, random_labels
from torch import Tensor

from inverseform_fast import homography
from inverseform_fast.nets import Align, InverseTransformNet

CAPABILITIES = (80, 90, 100)
CLASSES = 19
LOW, FULL = (17, 33), (68, 132)  # sizes of logits and labels: several programs, the last of which go over the edges
TILE = 96  # of the network; its 144 cells are a program and a part of another
HALF = torch.bfloat16
# The factor of a kernel that divides coordinates: on a GPU its quotients may err by 2 units in the last place.
QUOTIENTS = 4


@dataclass(frozen=True)
class Case:
    """An op, its inputs, and the kernels that value and gradient launch."""

    op: str
    inputs: Callable[[], tuple[Any, ...]]
    kernels: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    factor: float = 2  # of assert_three_way; as in tests/kernels
    tensor_floats: bool = False  # products of matrices in TF32


def logits(channels: int = CLASSES, size: tuple[int, int] = LOW, dtype: torch.dtype = torch.float32) -> Tensor:
    return random(2, channels, *size, dtype=dtype, scale=2.0)


def labels(size: tuple[int, int] = FULL, dtype: torch.dtype = torch.int64, void: float = 0.1) -> Tensor:
    return random_labels(CLASSES, 2, *size, void=void, dtype=dtype)


def hardly_void(size: tuple[int, int] = FULL) -> Tensor:
    """Labels of which many windows of 5 x 5 have no void."""
    return labels(size, void=0.02)


def target() -> Tensor:
    return random_labels(2, 2, *FULL, dtype=torch.uint8)[:, None]


def displaced() -> tuple[Tensor, Tensor]:
    """Logits of a model that sees patches, and labels that lie beside them."""
    patches = torch.randint(4, (1, 2, 4)).repeat_interleave(40, 1).repeat_interleave(40, 2)
    seen = F.avg_pool2d(F.one_hot(patches, 4).movedim(-1, 1).float(), 4)
    return 6 * seen, patches.roll((2, -3), (1, 2))


def theta(*batch: int) -> Tensor:
    return homography.exp(0.3 * torch.randn(*batch, 8))


def tiles(n: int = 2, tile: int = TILE) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, tile, tile), torch.rand(n, 1, tile, tile)


def weights(tile: int = TILE) -> list[Tensor]:
    """The shipped network's, whose last is a field over the tile."""
    net = InverseTransformNet.compact()
    assert isinstance(net, Align)
    *trained, velocity = (weight.detach() for weight in net.weights)
    edge = tile // 8
    return [*trained, velocity.view(28, 28, *velocity.shape[1:])[:edge, :edge].reshape(edge**2, *velocity.shape[1:])]


MAP, SOFT = (
    ("boundary_map_sliding_window",),
    ("soft_boundary_map", "soft_boundary_map_backward", "upsample_band_backward"),
)
SEGMENTATION, BOUNDARY = ("segmentation_loss", "mean_loss"), (*MAP, "boundary_loss", "balanced_loss")
DICE_SUMS, DICE_OF_SUMS = ("sums_of_classes", "totals_of_classes"), ("mean_of_classes", "dice_loss_backward")
DICE = (*DICE_SUMS, *DICE_OF_SUMS)
F1_MAPS = ("kinds_of_pixels", "near_along_x", "near_along_y", "largest_and_scales")
F1_SUMS = ("sums_of_boundaries", "totals_of_classes")
F1_OF_SUMS = (*F1_MAPS, "mean_f1", "boundary_f1_loss_backward", "add_gradient_of_band")
F1 = (*F1_SUMS, *F1_OF_SUMS)
TILES, WARP = ("extract_tiles", "extract_tiles_backward"), ("homography_warp", "homography_warp_backward")
EXP, CORRELATION = ("homography_exp", "homography_exp_backward"), ("local_correlation", "local_correlation_backward")
MOVE = ("flow_of_points", "read_labels")
REGISTER = ("smooth_cells", "information_of_cells", "register_tiles", "drop_noise")
ALIGN = (
    "first_layer", "second_layer", "group_norm", "correlation_layer", "equations", "solve", "equations_backward",
    "hidden_layers_backward", "correlation_backward", "group_norm_backward", "second_layer_backward",
    "first_layer_backward",
)  # fmt: skip
"""Kernels that are launched together."""

CASES = {  # every kernel, once
    "boundary_map": Case("boundary_map", lambda: (labels(),), MAP),
    "boundary_map, radius 8": Case("boundary_map", lambda: (labels(),), ("boundary_map_stencil",), {"radius": 8}),
    "segmentation_loss": Case("segmentation_loss", lambda: (logits(), labels()), SEGMENTATION),
    "dice_loss": Case("dice_loss", lambda: (logits(), labels()), DICE),
    "boundary_f1_loss": Case("boundary_f1_loss", lambda: (logits(), hardly_void()), F1),
    "boundary_loss": Case("boundary_loss", lambda: (logits(1), labels()), BOUNDARY),
    "soft_boundary_map": Case("soft_boundary_map", lambda: (logits(3),), SOFT, {"size": FULL}, factor=6),
    "channels_first": Case(
        "channels_first", lambda: (logits(dtype=HALF).contiguous(memory_format=torch.channels_last),), ("transpose",)
    ),
    "extract_tiles": Case("extract_tiles", lambda: (logits(1), target()), TILES, {"size": (224, 224)}),
    "homography_warp": Case(
        "homography_warp", lambda: (random(2, 1, 20, 37), theta(2, 2)), WARP, {"size": (18, 36)}, factor=QUOTIENTS
    ),
    "homography_exp": Case("homography_exp", lambda: (0.3 * torch.randn(35, 8),), EXP),
    "local_correlation": Case(
        "local_correlation", lambda: (random(2, 16, 5, 7), random(2, 16, 5, 7)), CORRELATION, {"reach": 3, "groups": 2}
    ),
    "move_labels": Case("move_labels", lambda: (0.03 * torch.randn(2, 3, 1, 8), labels()), MOVE, factor=8),
    "register_labels": Case("register_labels", displaced, REGISTER, factor=6),
    "align": Case("align", tiles, ALIGN, {"weights": weights()}, factor=4),
    "align, TF32": Case("align", tiles, ALIGN, {"weights": weights()}, tensor_floats=True),
}
VARIANTS = {  # other dtypes and options
    "boundary_map, uint8": Case("boundary_map", lambda: (labels(dtype=torch.uint8),), MAP),
    "boundary_map, release": Case("boundary_map", lambda: (labels(),), ("boundary_map_stencil",), {"release": True}),
    "segmentation_loss, bfloat16": Case("segmentation_loss", lambda: (logits(dtype=HALF), labels()), SEGMENTATION),
    "segmentation_loss, class weights": Case(
        "segmentation_loss", lambda: (logits(), labels()), SEGMENTATION, {"class_weights": torch.rand(CLASSES) + 0.5}
    ),
    "segmentation_loss, same size": Case("segmentation_loss", lambda: (logits(), labels(LOW)), SEGMENTATION),
    "dice_loss, sums": Case(
        "dice_loss", lambda: (logits(), labels()), DICE_OF_SUMS, {"sums": 2e4 * (1 + torch.rand(3, CLASSES).double())}
    ),
    "dice_sums": Case("dice_sums", lambda: (logits(), labels()), DICE_SUMS),
    "dice_loss, float16": Case("dice_loss", lambda: (logits(dtype=torch.float16), labels()), DICE),
    "dice_loss, same size": Case("dice_loss", lambda: (logits(), labels(LOW)), DICE),
    "boundary_f1_loss, sums": Case(
        "boundary_f1_loss", lambda: (logits(), hardly_void()), F1_OF_SUMS,
        {"sums": 2e4 * (1 + torch.rand(4, CLASSES).double())},
    ),
    "boundary_f1_sums": Case("boundary_f1_sums", lambda: (logits(), hardly_void()), (*F1_MAPS, *F1_SUMS)),
    "boundary_f1_loss, bfloat16": Case("boundary_f1_loss", lambda: (logits(dtype=HALF), hardly_void()), F1),
    "boundary_f1_loss, radius 3": Case("boundary_f1_loss", lambda: (logits(), hardly_void()), F1, {"radius": 3}),
    "boundary_f1_loss, same size": Case("boundary_f1_loss", lambda: (logits(), hardly_void(LOW)), F1),
    "boundary_loss, bfloat16": Case("boundary_loss", lambda: (logits(1, dtype=HALF), labels()), BOUNDARY),
    "boundary_loss, counts": Case(
        "boundary_loss", lambda: (logits(1), labels()), BOUNDARY, {"counts": torch.tensor([3e4, 2.0**25]).double()}
    ),
    "soft_boundary_map, radius 3, bfloat16": Case(
        "soft_boundary_map", lambda: (logits(3, dtype=HALF),), SOFT, {"size": FULL, "radius": 3}, factor=6
    ),
    "extract_tiles, float16": Case(
        "extract_tiles", lambda: (logits(1, dtype=torch.float16), target()), TILES, {"size": (224, 224)}
    ),
    "homography_warp, border": Case(
        "homography_warp", lambda: (random(2, 1, 20, 37), theta(2, 2)), WARP, {"size": (18, 36), "padding": "border"},
        factor=QUOTIENTS,
    ),
    "homography_warp, nearest": Case(
        "homography_warp", lambda: (random(2, 1, 20, 37), theta(2)), WARP,
        {"size": (18, 36), "mode": "nearest", "padding": "border"}, factor=QUOTIENTS,
    ),
    "homography_exp, bfloat16": Case("homography_exp", lambda: ((0.3 * torch.randn(35, 8)).to(HALF),), EXP),
}  # fmt: skip
