"""homography_warp: the sampling grid lives in registers, and one launch makes all views of all images.

The backward adds up the image's gradient in 64-bit fixed point, scaled so that even the sum of the whole gradient on
one pixel fits. The sum of whole numbers has the same bits in any order, and it fits for every homography.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementary import divide, floor
from .memory import VARYING, check_edges, gather, plane_strides

ROWS, COLUMNS, WARPS = 16, 32, 4  # of a program; a tile of 224 pixels is a whole number of such blocks
FAR = tl.constexpr(1e4)  # as in the reference
EPS = tl.constexpr(torch.finfo(torch.float32).eps)
OUTSIDE = tl.constexpr(-2.0)  # neither this pixel nor the next one is in the image


def homography_warp(
    image: Tensor,  # [N, C, h, w]
    theta: Tensor,  # [N, V, 3, 3]: V views of each image
    size: Sequence[int],
    nearest: bool,
    border: bool,
) -> Tensor:
    """``[N, V, C, H, W]``: the views."""
    n, channels, height, width = image.shape
    views = theta.shape[1]
    result = image.new_empty(n, views, channels, *size)
    programs, blocks = _programs(n * views, size)
    check_edges(height, width, *size)
    if result.numel():
        _homography_warp[(programs,)](
            image, theta.float().contiguous(), result,
            views, channels, height, width, *size, *blocks, *image.stride()[:2], *plane_strides(image),
            NEAREST=nearest, BORDER=border, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=WARPS,
        )  # fmt: skip
    return result


def homography_warp_backward(
    grad: Tensor,  # [N, V, C, H, W]
    image: Tensor,  # [N, C, h, w]
    theta: Tensor,  # [N, V, 3, 3]
    nearest: bool,
    border: bool,
    wants_image: bool,
    wants_theta: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of image and theta; one that is not wanted is empty."""
    n, channels, height, width = image.shape
    views, size = theta.shape[1], grad.shape[3:]
    programs, blocks = _programs(n * views, size)
    grad = grad.contiguous()
    sums = grad.new_zeros(n, views, max(blocks[0] * blocks[1], 1), 3, 3, dtype=torch.float32)
    grad_fixed = grad.new_zeros(image.shape if wants_image else (0,), dtype=torch.int64)
    scale = _scale(grad) if wants_image else None
    if grad.numel():
        _homography_warp_backward[(programs,)](
            grad, image, theta.float().contiguous(), scale, grad_fixed, sums,
            views, channels, height, width, *size, *blocks, *image.stride()[:2], *plane_strides(image),
            NEAREST=nearest, BORDER=border, WANTS_IMAGE=wants_image, WANTS_THETA=wants_theta,
            ROWS=ROWS, COLUMNS=COLUMNS, num_warps=WARPS,
        )  # fmt: skip
    grad_image = image.new_empty(0) if scale is None else (grad_fixed.double() / scale).to(image.dtype)
    return grad_image, sums.sum(2).to(theta.dtype) if wants_theta else theta.new_empty(0)


def _scale(
    grad: Tensor,  # [N, V, C, H, W]
) -> Tensor:
    """``[]``: what 1 is in fixed point, such that even all of an image's gradient on one pixel sums to below 2^62."""
    largest = grad.abs().amax().float() if grad.numel() else grad.new_ones((), dtype=torch.float32)
    most = max(grad.shape[1] * grad.shape[3] * grad.shape[4], 1)
    return 2.0**62 / most / largest.clamp(min=1e-18)  # The clamp keeps the scale finite.


def _programs(views: int, size: Sequence[int]) -> tuple[int, tuple[int, int]]:
    """How many programs there are, and how many blocks of a view by rows and columns."""
    blocks = triton.cdiv(size[0], ROWS), triton.cdiv(size[1], COLUMNS)
    return views * blocks[0] * blocks[1], blocks


@triton.jit(do_not_specialize=VARYING)
def _homography_warp(
    image,  # [N, C, h, w]
    theta,  # [N, V, 3, 3]
    result,  # [N, V, C, H, W]
    views, channels, height, width, result_height, result_width, blocks_y, blocks_x,
    image_n, image_c, image_y, image_x,
    NEAREST: tl.constexpr, BORDER: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    view, y, x, px, py = _points(blocks_y, blocks_x, result_height, result_width, ROWS, COLUMNS)
    source_x, source_y, _, _ = _source(theta + view * 9, px, py)
    sx, _ = _pixel(source_x, width, BORDER)
    sy, _ = _pixel(source_y, height, BORDER)
    image += view // views * image_n
    result += view * channels * result_height * result_width + (y * result_width + x)
    inside = (y < result_height) & (x < result_width)
    left, share_x = _first_neighbour(sx, NEAREST)
    top, share_y = _first_neighbour(sy, NEAREST)
    for _ in range(channels):
        if NEAREST:
            value = _at(image, top, left, height, width, image_y, image_x, inside)
        else:
            top_left, top_right, bottom_left, bottom_right = _neighbours(
                image, top, left, height, width, image_y, image_x, inside
            )
            value = _lerp(_lerp(top_left, top_right, share_x), _lerp(bottom_left, bottom_right, share_x), share_y)
        tl.store(result, value.to(result.dtype.element_ty), inside)
        image += image_c
        result += result_height * result_width


@triton.jit(do_not_specialize=VARYING)
def _homography_warp_backward(
    grad,  # [N, V, C, H, W]
    image,  # [N, C, h, w]
    theta,  # [N, V, 3, 3]
    scale,  # [], or None
    grad_fixed,  # [N, C, h, w]: of the image, in fixed point
    sums,  # [N, V, blocks, 3, 3]: of theta, from each block
    views, channels, height, width, result_height, result_width, blocks_y, blocks_x,
    image_n, image_c, image_y, image_x,
    NEAREST: tl.constexpr, BORDER: tl.constexpr, WANTS_IMAGE: tl.constexpr, WANTS_THETA: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    view, y, x, px, py = _points(blocks_y, blocks_x, result_height, result_width, ROWS, COLUMNS)
    source_x, source_y, depth, moves = _source(theta + view * 9, px, py)
    sx, moves_x = _pixel(source_x, width, BORDER)
    sy, moves_y = _pixel(source_y, height, BORDER)
    inside = (y < result_height) & (x < result_width)
    left, share_x = _first_neighbour(sx, NEAREST)
    top, share_y = _first_neighbour(sy, NEAREST)
    image += view // views * image_n
    grad_fixed += view // views * channels * height * width
    grad += view * channels * result_height * result_width + (y * result_width + x)
    grad_x, grad_y = tl.zeros(sx.shape, tl.float32), tl.zeros(sy.shape, tl.float32)
    if WANTS_IMAGE:
        unit = tl.load(scale)
    for _ in range(channels):
        g = tl.load(grad, inside, 0).to(tl.float32)
        # The image's value at (x, y) is bilinear: along x it changes by right - left, mixed by y's share.
        if WANTS_THETA and not NEAREST:
            top_left, top_right, bottom_left, bottom_right = _neighbours(
                image, top, left, height, width, image_y, image_x, inside
            )
            grad_x += g * _lerp(top_right - top_left, bottom_right - bottom_left, share_y)
            grad_y += g * _lerp(bottom_left - top_left, bottom_right - top_right, share_x)
        # Each neighbour was read with its share, and gets that share of the gradient.
        if WANTS_IMAGE:
            above, below = g * (1 - share_y) * unit, g * share_y * unit
            _add(grad_fixed, top, left, above * (1 - share_x), height, width, inside)
            if not NEAREST:
                _add(grad_fixed, top, left + 1, above * share_x, height, width, inside)
                _add(grad_fixed, top + 1, left, below * (1 - share_x), height, width, inside)
                _add(grad_fixed, top + 1, left + 1, below * share_x, height, width, inside)
        grad += result_height * result_width
        image += image_c
        grad_fixed += height * width
    if WANTS_THETA:
        # A normalized coordinate of 1 is width / 2 pixels. It is x = X / D, where (X, Y, D) = theta p, p = (px, py, 1).
        # So grad X = grad x / D and grad D = -(x grad x + y grad y) / D, and a row of theta gets its gradient times p.
        # Where a coordinate was clamped, it does not move with theta.
        grad_x = tl.where(inside & moves & moves_x, divide(grad_x * (width / 2), depth), 0.0)
        grad_y = tl.where(inside & moves & moves_y, divide(grad_y * (height / 2), depth), 0.0)
        grad_depth = -(grad_x * source_x + grad_y * source_y)
        sums += tl.program_id(0).to(tl.int64) * 9
        _store_row(sums, grad_x, px, py)
        _store_row(sums + 3, grad_y, px, py)
        _store_row(sums + 6, grad_depth, px, py)


@triton.jit
def _points(blocks_y, blocks_x, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """This program's view (int64), the rows and columns of its pixels, and their normalized x and y."""
    program = tl.program_id(0)
    y = program // blocks_x % blocks_y * ROWS + tl.arange(0, ROWS)[:, None]
    x = program % blocks_x * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    view = (program // (blocks_y * blocks_x)).to(tl.int64)
    return view, y, x, (2 * x + 1) * (1.0 / width) - 1, (2 * y + 1) * (1.0 / height) - 1


@triton.jit
def _source(theta, px, py):
    """Normalized x and y of ``theta p``, its depth, and whether p lies in front, where x and y move with theta."""
    x = tl.load(theta) * px + tl.load(theta + 1) * py + tl.load(theta + 2)
    y = tl.load(theta + 3) * px + tl.load(theta + 4) * py + tl.load(theta + 5)
    depth = tl.load(theta + 6) * px + tl.load(theta + 7) * py + tl.load(theta + 8)
    behind = depth <= EPS
    depth = tl.where(behind, 1.0, depth)
    x, y = divide(x, depth), divide(y, depth)
    # This is written so that NaN counts as near: it must be seen, not clamped away.
    near_x, near_y = ~(tl.abs(x) > FAR), ~(tl.abs(y) > FAR)
    x = tl.where(behind, FAR, tl.where(near_x, x, tl.where(x > 0, FAR, -FAR)))
    y = tl.where(behind, FAR, tl.where(near_y, y, tl.where(y > 0, FAR, -FAR)))
    return x, y, depth, ~behind


@triton.jit
def _pixel(position, size, BORDER: tl.constexpr):
    """The pixel coordinate of a normalized position, and whether it moves with that position."""
    pixel = ((position + 1) * size - 1) / 2
    moves = tl.abs(position) < FAR
    if BORDER:
        moves = moves & (pixel > 0) & (pixel < size - 1)
        pixel = tl.where(pixel < 0, 0.0, pixel)  # by comparisons, which NaN passes
        pixel = tl.where(pixel > size - 1, size - 1.0, pixel)
    return pixel, moves


@triton.jit
def _first_neighbour(place, NEAREST: tl.constexpr):
    """The nearest pixel and 0, or the pixel before the place and the share of the next. NaN lies outside the image."""
    first = _round_to_even(place) if NEAREST else floor(place)
    share = tl.zeros(place.shape, tl.float32) if NEAREST else place - first
    return tl.where(place == place, first, OUTSIDE).to(tl.int32), share


@triton.jit
def _neighbours(image, top, left, height, width, stride_y, stride_x, inside):
    """Values in float32 at the top left, top right, bottom left and bottom right."""
    return (
        _at(image, top, left, height, width, stride_y, stride_x, inside).to(tl.float32),
        _at(image, top, left + 1, height, width, stride_y, stride_x, inside).to(tl.float32),
        _at(image, top + 1, left, height, width, stride_y, stride_x, inside).to(tl.float32),
        _at(image, top + 1, left + 1, height, width, stride_y, stride_x, inside).to(tl.float32),
    )


@triton.jit
def _at(image, y, x, height, width, stride_y, stride_x, inside):
    """The image's values, and 0 beyond its borders."""
    hit = inside & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return gather(image, y * stride_y + x * stride_x, hit)


@triton.jit
def _lerp(first, second, share):
    """Interpolate as the reference does; :func:`.resize.lerp` rounds in another way."""
    return first * (1 - share) + second * share


@triton.jit
def _add(grad_fixed, y, x, value, height, width, inside):
    """Add whole numbers to pixels, but none beyond the borders."""
    hit = inside & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    # This is one-dimensional, for the reason that ``memory.gather`` gives.
    place, value = tl.ravel(y * width + x), tl.ravel(value.to(tl.int64))
    tl.atomic_add(grad_fixed + place, value, tl.ravel(hit), sem="relaxed")


@triton.jit
def _store_row(sums, grad, px, py):
    """The block's sum of ``grad (px, py, 1)``."""
    tl.store(sums, tl.sum(tl.ravel(grad * px), 0))
    tl.store(sums + 1, tl.sum(tl.ravel(grad * py), 0))
    tl.store(sums + 2, tl.sum(tl.ravel(grad), 0))


@triton.jit
def _round_to_even(x):
    nearest = floor(x + 0.5)
    odd = nearest - 2 * floor(nearest / 2)
    return tl.where((nearest - x == 0.5) & (odd == 1), nearest - 1, nearest)
