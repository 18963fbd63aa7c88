"""extract_tiles: one launch takes the sigmoid, resizes and cuts both maps into tiles; the backward needs no atomics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementary import sigmoids
from .layout import empty_gradient
from .memory import VARYING, check_edges, gather, plane_strides
from .resize import (
    cells,
    cut_into_cells,
    full_positions,
    lerp,
    owns_pixel,
    part_of_image,
    sum_parts,
    taps,
    upsample_backward,
)

ROWS, COLUMNS = 32, 32  # A program is one warp, and each thread takes a column.
VOID_SHARE = tl.constexpr(1e-3)  # as in the reference


def extract_tiles(
    predicted: Tensor,  # [N, 1, h, w]
    target: Tensor,  # [N, 1, H, W]
    size: Sequence[int],
    tile: int,
    sigmoid: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted and true tiles, and where they are valid (uint8), all ``[N * rows * columns, 1, tile, tile]``."""
    n = predicted.shape[0]
    check_edges(*predicted.shape[2:], *target.shape[2:], *size)
    rows, columns = size[0] // tile, size[1] // tile
    shape = (n * rows * columns, 1, tile, tile)
    predicted_tiles = predicted.new_empty(shape, dtype=torch.float32)
    true_tiles, valid = torch.empty_like(predicted_tiles), predicted.new_empty(shape, dtype=torch.uint8)
    blocks_y, blocks_x = triton.cdiv(tile, ROWS), triton.cdiv(tile, COLUMNS)
    if n:
        _extract_tiles[(shape[0] * blocks_y * blocks_x,)](
            predicted, target, predicted_tiles, true_tiles, valid,
            *predicted.shape[2:], *target.shape[2:], *size, rows, columns, blocks_y, blocks_x,
            predicted.stride(0), *plane_strides(predicted), target.stride(0), *plane_strides(target),
            TILE=tile, SIGMOID=sigmoid, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=1,
        )  # fmt: skip
    return predicted_tiles, true_tiles, valid


def extract_tiles_backward(
    grad_tiles: Tensor,  # [N * rows * columns, 1, tile, tile]
    valid: Tensor,  # [N * rows * columns, 1, tile, tile]
    predicted: Tensor,  # [N, 1, h, w]
    size: Sequence[int],
    tile: int,
    sigmoid: bool,
) -> Tensor:
    """``[N, 1, h, w]``: the gradient of ``predicted``."""
    n = predicted.shape[0]
    cut = cut_into_cells(predicted.shape[2:], size)
    grad = empty_gradient(predicted, cut.parts)
    if n:
        _extract_tiles_backward[(n * cut.programs,)](
            grad_tiles.contiguous(), valid, predicted, grad,
            n, *predicted.shape[2:], *size, size[0] // tile, size[1] // tile, *cut.blocks, *cut.parts_yx,
            predicted.stride(0), *plane_strides(predicted), grad.stride(0), *plane_strides(grad),
            TILE=tile, SIGMOID=sigmoid, KY=cut.k[0], KX=cut.k[1], RESIZED=cut.resized, num_warps=cut.warps,
        )  # fmt: skip
    return sum_parts(grad, cut.parts).to(predicted.dtype)


@triton.jit(do_not_specialize=VARYING)
def _extract_tiles(
    predicted,  # [N, 1, h, w]
    target,  # [N, 1, H, W]
    predicted_tiles,  # [N * rows * columns, 1, TILE, TILE]
    true_tiles,  # [N * rows * columns, 1, TILE, TILE]
    valid,  # [N * rows * columns, 1, TILE, TILE]
    height, width, target_height, target_width, full_height, full_width, rows, columns, blocks_y, blocks_x,
    predicted_n, predicted_y, predicted_x, target_n, target_y, target_x,
    TILE: tl.constexpr, SIGMOID: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    index = program // (blocks_y * blocks_x)
    n = (index // (rows * columns)).to(tl.int64)
    x = program % blocks_x * COLUMNS + tl.arange(0, COLUMNS)
    inside = x < TILE
    full_x = index % columns * TILE + tl.minimum(x, TILE - 1)
    target_x0, target_x1, target_share = taps(full_x, target_width, full_width)
    x0, x1, share_x = taps(full_x, width, full_width)
    target_x0, target_x1, x0, x1 = target_x0 * target_x, target_x1 * target_x, x0 * predicted_x, x1 * predicted_x
    target += n * target_n
    predicted += n * predicted_n
    result = index.to(tl.int64) * (TILE * TILE) + x
    above, below = tl.zeros([COLUMNS], tl.float32), tl.zeros([COLUMNS], tl.float32)
    above_row, below_row = -1, -1
    first = program // blocks_x % blocks_y * ROWS
    for y in range(first, tl.minimum(first + ROWS, TILE)):
        full_y = index // columns % rows * TILE + y
        y0, y1, share_y = taps(full_y, target_height, full_height)
        boundary_above, void_above = _boundary_and_void(target + y0 * target_y, target_x0, target_x1, target_share)
        boundary_below, void_below = _boundary_and_void(target + y1 * target_y, target_x0, target_x1, target_share)
        boundary = lerp(boundary_above, boundary_below, share_y)
        clean = lerp(void_above, void_below, share_y) < VOID_SHARE

        y0, y1, share_y = taps(full_y, height, full_height)
        if (y0 != above_row) | (y1 != below_row):  # Neighbouring rows often lie between the same two.
            above = _probabilities(predicted + y0 * predicted_y, x0, x1, share_x, SIGMOID)
            below = _probabilities(predicted + y1 * predicted_y, x0, x1, share_x, SIGMOID)
            above_row, below_row = y0, y1
        tl.store(predicted_tiles + result + y * TILE, tl.where(clean, lerp(above, below, share_y), 0.0), inside)
        tl.store(true_tiles + result + y * TILE, tl.where(clean, boundary, 0.0), inside)
        tl.store(valid + result + y * TILE, clean.to(tl.uint8), inside)


@triton.jit
def _boundary_and_void(row, x0, x1, share):
    """The shares of boundary and of void in the target, between two columns of a row."""
    left, right = tl.load(row + x0), tl.load(row + x1)
    if not left.dtype.is_floating():
        left, right = left.to(tl.int32), right.to(tl.int32)
    boundary = tl.where(left == 1, 1 - share, 0.0) + tl.where(right == 1, share, 0.0)
    return boundary, tl.where(left == 255, 1 - share, 0.0) + tl.where(right == 255, share, 0.0)


@triton.jit
def _probabilities(row, x0, x1, share, SIGMOID: tl.constexpr):
    """The prediction between two columns of a row."""
    left, right = tl.load(row + x0).to(tl.float32), tl.load(row + x1).to(tl.float32)
    if SIGMOID:
        left, _, _ = sigmoids(left)
        right, _, _ = sigmoids(right)
    return lerp(left, right, share)


@triton.jit(do_not_specialize=("parts_y", "parts_x", *VARYING))
def _extract_tiles_backward(
    grad_tiles,  # [N * rows * columns, 1, TILE, TILE]
    valid,  # [N * rows * columns, 1, TILE, TILE]
    predicted,  # [N, 1, h, w]
    grad,  # [parts * N, 1, h, w]: of the prediction
    batch, height, width, full_height, full_width, rows, columns, blocks_y, blocks_x, parts_y, parts_x,
    predicted_n, predicted_y, predicted_x, grad_n, grad_y, grad_x,
    TILE: tl.constexpr, SIGMOID: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr, RESIZED: tl.constexpr,
):  # fmt: skip
    n, part_y, part_x, block_y, block_x = part_of_image(blocks_y, blocks_x, parts_y, parts_x)
    cell_y, cell_x = cells(block_y, block_x)
    y, share_y, inside_y = full_positions(cell_y, part_y, height, full_height, KY)
    x, share_x, inside_x = full_positions(cell_x, part_x, width, full_width, KX)
    inside = inside_y[:, None, :] & inside_x[None, :, :]
    row = y // TILE * columns * (TILE * TILE) + y % TILE * TILE
    column = x // TILE * (TILE * TILE) + x % TILE
    offsets = row[:, None, :] + column[None, :, :]
    first = n * rows * columns * (TILE * TILE)
    grad_full = gather(grad_tiles + first, offsets, inside)
    grad_full = tl.where(gather(valid + first, offsets, inside) > 0, grad_full, 0.0)
    result = upsample_backward(grad_full, share_y, share_x, RESIZED)

    owned = owns_pixel(cell_y, cell_x, height, width)
    if SIGMOID:
        logit = tl.load(predicted + n * predicted_n + (cell_y * predicted_y + cell_x * predicted_x), owned, 0)
        chance, doubt, _ = sigmoids(logit.to(tl.float32))
        result *= chance * doubt  # The sigmoid's derivative is s(z) s(-z).
    grad += ((part_y * parts_x + part_x) * batch + n) * grad_n + (cell_y * grad_y + cell_x * grad_x)
    tl.store(grad, result, owned)
