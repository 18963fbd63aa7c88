"""move_labels: points flow along the tiles' motions, then each pixel reads the label at its displaced place."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.move_labels import POINTS, STEPS
from .homography_exp import exponential
from .memory import VARYING, check_edges, plane_strides

BLOCK, POINT_BLOCK = 512, 64  # pixels and points of a program; points are few, and each takes two exponentials
TURNS = tl.constexpr(STEPS)


def move_labels(
    motion: Tensor,  # [N, rows, columns, 8]
    labels: Tensor,  # [N, H, W]
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """The labels ``[N, H, W]``, and where they were read, ``[N, 2, H, W]``."""
    n, height, width = labels.shape
    check_edges(height, width)
    moved = torch.empty(labels.shape, dtype=labels.dtype, device=labels.device)
    displacement = motion.new_empty(n, 2, height, width, dtype=torch.float32)
    rows, columns = ((tiles + 1) * POINTS for tiles in motion.shape[1:3])
    points = displacement.new_empty(n, 2, rows, columns)
    if n:
        _flow_of_points[(triton.cdiv(n * rows * columns, POINT_BLOCK),)](
            motion.contiguous(), points, n, *motion.shape[1:3], rows, columns, height, width,
            BLOCK=POINT_BLOCK, num_warps=2,
        )  # fmt: skip
        _read_labels[(n * triton.cdiv(height * width, BLOCK),)](
            points, labels, moved, displacement, rows, columns, height, width, ignore_index,
            labels.stride(0), *plane_strides(labels), BLOCK=BLOCK,
        )  # fmt: skip
    return moved, displacement


@triton.jit(do_not_specialize=VARYING)
def _flow_of_points(
    motion,  # [N, height, width, 8]
    points,  # [N, 2, rows, columns]: the displacement of each, in pixels
    n, height, width, rows, columns, full_height, full_width, BLOCK: tl.constexpr,
):  # fmt: skip
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = point < n.to(tl.int64) * rows * columns
    image, place = point // (rows * columns), (point % (rows * columns)).to(tl.int32)
    motion += image * height * width * 8
    start_x = _along(place % columns, columns, full_width)
    start_y = _along(place // columns, rows, full_height)
    x, y = start_x, start_y
    for _ in tl.static_range(TURNS):
        left, right, u = _tiles_beside(x, width)
        above, below, v = _tiles_beside(y, height)
        here = ()
        for k in tl.static_range(8):
            upper_left = tl.load(motion + (above * width + left) * 8 + k, inside, 0).to(tl.float32)
            upper_right = tl.load(motion + (above * width + right) * 8 + k, inside, 0).to(tl.float32)
            lower_left = tl.load(motion + (below * width + left) * 8 + k, inside, 0).to(tl.float32)
            lower_right = tl.load(motion + (below * width + right) * 8 + k, inside, 0).to(tl.float32)
            upper, lower = upper_left + u * (upper_right - upper_left), lower_left + u * (lower_right - lower_left)
            here += ((upper + v * (lower - upper)) / TURNS,)
        theta = exponential(here)
        depth = theta[6] * x + theta[7] * y + theta[8]
        x, y = (
            (theta[0] * x + theta[1] * y + theta[2]) / depth,
            (theta[3] * x + theta[4] * y + theta[5]) / depth,
        )
    points += image * 2 * rows * columns + place
    tl.store(points, (x - start_x) * (full_width / 2), inside)
    tl.store(points + rows * columns, (y - start_y) * (full_height / 2), inside)


@triton.jit
def _along(index, count, pixels):
    """The coordinate of a point: they go from the center of the first pixel to that of the last one."""
    last = 1 - 1 / pixels
    # By a division, since a product could be fused with a difference; a point that does not move would seem to, then.
    return tl.div_rn(last * (2 * index - (count - 1)).to(tl.float32), (count - 1).to(tl.float32))


@triton.jit
def _tiles_beside(x, count):
    """The tiles whose centers lie before and after a coordinate, and the share of the latter."""
    place = (x + 1) * ((count + 1) / 2) - 1  # the first center is at 0
    place = tl.minimum(tl.where(place > 0, place, 0.0), (count - 1).to(tl.float32))  # one that is none (NaN) becomes 0
    first = place.to(tl.int32)
    return first, tl.minimum(first + 1, count - 1), place - first


@triton.jit(do_not_specialize=VARYING)
def _read_labels(
    points,  # [N, 2, height, width]
    labels,  # [N, full_height, full_width]
    moved,  # [N, full_height, full_width]
    displacement,  # [N, 2, full_height, full_width]
    height, width, full_height, full_width, ignore_index, labels_n, labels_y, labels_x, BLOCK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(full_height * full_width, BLOCK)
    image, pixel = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < full_height * full_width
    y, x = pixel // full_width, pixel % full_width
    above, below, v = _points_beside(y, height, full_height)
    left, right, u = _points_beside(x, width, full_width)
    points += image * 2 * height * width
    dx = _between(points, above * width, below * width, left, right, u, v, inside)
    dy = _between(points + height * width, above * width, below * width, left, right, u, v, inside)
    displacement += image * 2 * full_height * full_width + pixel
    tl.store(displacement, dx, inside)
    tl.store(displacement + full_height * full_width, dy, inside)
    x, y = x + tl.floor(dx + 0.5).to(tl.int32), y + tl.floor(dy + 0.5).to(tl.int32)
    found = inside & (x >= 0) & (x < full_width) & (y >= 0) & (y < full_height)
    label = tl.load(labels + image * labels_n + y * labels_y + x * labels_x, found, ignore_index)
    tl.store(moved + image * full_height * full_width + pixel, label, inside)


@triton.jit
def _points_beside(index, count, pixels):
    """The points before and after a pixel, and the share of the latter."""
    place = index.to(tl.float32) * ((count - 1) / tl.maximum(pixels - 1, 1))
    first = tl.minimum(place.to(tl.int32), count - 1)
    return first, tl.minimum(first + 1, count - 1), place - first


@triton.jit
def _between(points, above, below, left, right, u, v, inside):
    upper = tl.load(points + above + left, inside, 0) * (1 - u) + tl.load(points + above + right, inside, 0) * u
    lower = tl.load(points + below + left, inside, 0) * (1 - u) + tl.load(points + below + right, inside, 0) * u
    return upper * (1 - v) + lower * v
