"""soft_boundary_map: upsampling, softmax and the products of neighbours, tile by tile.

The probability that pixel p is boundary is ``1 - prod_q B_pq``. The product is over the neighbours q within the radius,
and ``B_pq = sum_c sqrt(P_c(p) P_c(q))`` is the Bhattacharyya coefficient of their class probabilities P, the softmax of
the upsampled logits. A program owns a tile of full pixels and a margin of the radius around it. For each class it
computes the square roots of the probabilities and shifts them over the tile, so it stores no full-resolution tensor of
C channels. The backward needs such a tensor, and stores it for one band of rows at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementary import exp, log
from .layout import empty_gradient
from .memory import VARYING, check_edges, gather, plane_strides
from .resize import (
    CELLS,
    LOWEST,
    cells,
    cut_into_cells,
    full_positions,
    lerp,
    load,
    owns_pixel,
    taps,
    upsample_backward,
)

LARGEST_RADIUS = 3  # The margin of a larger one would leave little of a tile, and its offsets would fill the registers.
EDGE = tl.constexpr(32)  # of a tile with its margin
WARPS = 8
TINY = tl.constexpr(torch.finfo(torch.float32).tiny)
BANDS = 8  # of rows, in the backward of a tall map
# Where rows are known to be aligned, a thread stores two pixels at once. That spares a fifth of the forward's registers
# and a tenth of the backward's instructions.
ALIGNED = ("full_width", "full_n", "full_c", "full_y")
UNALIGNED = tuple(name for name in ("first", *VARYING) if name not in ALIGNED)


def soft_boundary_map(
    logits: Tensor,  # [N, C, h, w]
    size: Sequence[int],
    radius: int,
) -> tuple[Tensor, Tensor]:
    """The map, and the logarithm of one minus the map, both ``[N, 1, H, W]``.

    The backward needs the logarithm, which cannot be computed from the map, because the map has been rounded.
    """
    check_edges(*logits.shape[2:], *size)
    result = logits.new_empty(logits.shape[0], 1, *size, dtype=torch.float32)
    logarithm = torch.empty_like(result)
    blocks = _tiles(size[0], radius), _tiles(size[1], radius)
    if result.numel():
        _soft_boundary_map[(logits.shape[0] * blocks[0] * blocks[1],)](
            logits, result, logarithm, *logits.shape[1:], *size, *blocks, *logits.stride()[:2], *plane_strides(logits),
            RADIUS=radius, RESIZED=logits.shape[2:] != result.shape[2:], num_warps=WARPS,
        )  # fmt: skip
    return result, logarithm


def soft_boundary_map_backward(
    grad: Tensor,  # [N, 1, H, W]: of the map
    logarithm: Tensor,  # [N, 1, H, W]
    logits: Tensor,  # [N, C, h, w]
    radius: int,
) -> Tensor:
    """``[N, C, h, w]``: the gradient of the logits."""
    n, channels, *_ = logits.shape
    height, width = size = logarithm.shape[2:]
    cut = cut_into_cells(logits.shape[2:], size)
    grad_log = (-grad * logarithm.exp()).contiguous()  # The map is 1 - e^logarithm.
    band = max(2 * EDGE.value, triton.cdiv(height, BANDS))
    grad_full = logits.new_empty(n, channels, min(band, height), width, dtype=torch.float32)
    grad_logits = empty_gradient(logits).zero_()
    for first in range(0, height if n else 0, band):
        rows = min(band, height - first)
        blocks = _tiles(rows, radius), _tiles(width, radius)
        _soft_boundary_map_backward[(n * blocks[0] * blocks[1],)](
            logits, grad_log, grad_full, *logits.shape[1:], *size, first, rows, *blocks,
            *logits.stride()[:2], *plane_strides(logits), *grad_full.stride()[:3],
            RADIUS=radius, RESIZED=cut.resized, num_warps=WARPS,
        )  # fmt: skip
        first_block, blocks_y = _blocks_of_band(first, rows, logits.shape[2], height)
        _upsample_band_backward[(n * channels * blocks_y * cut.blocks[1],)](
            grad_full, grad_logits, channels, *logits.shape[2:], *size, first, rows,
            first_block, blocks_y, cut.blocks[1], *cut.parts_yx,
            *grad_full.stride()[:3], *grad_logits.stride(),
            KY=cut.k[0], KX=cut.k[1], RESIZED=cut.resized, num_warps=cut.warps,
        )  # fmt: skip
    return grad_logits.to(logits.dtype)


def _tiles(pixels: int, radius: int) -> int:
    """How many tiles cover a row or column of pixels."""
    return triton.cdiv(pixels, EDGE.value - 2 * radius)


def _blocks_of_band(first: int, rows: int, height: int, full_height: int) -> tuple[int, int]:
    """The first of the blocks of cells that hold the full rows from ``first`` on, and how many blocks these are."""
    ends = first, first + rows - 1
    first_cell, last_cell = (((2 * y + 1) * height - full_height) // (2 * full_height) for y in ends)
    own = CELLS.value - 1  # rows of pixels that a block owns; its cells begin one row before them
    first_block, last_block = max(first_cell // own, 0), min((last_cell + 1) // own, (height - 1) // own)
    return first_block, last_block - first_block + 1


@triton.constexpr_function
def half_disk(radius):
    """Offsets (dy, dx) within the radius: one of each two opposite ones, since B_pq = B_qp."""
    reach = range(-radius, radius + 1)
    return [(y, x) for y in range(radius + 1) for x in reach if 0 < y * y + x * x <= radius**2 and (y > 0 or x > 0)]


@triton.jit(do_not_specialize=UNALIGNED)
def _soft_boundary_map(
    logits,  # [N, C, h, w]
    result,  # [N, 1, H, W]
    logarithm,  # [N, 1, H, W]
    channels, height, width, full_height, full_width, blocks_y, blocks_x,
    logits_n, logits_c, logits_y, logits_x, RADIUS: tl.constexpr, RESIZED: tl.constexpr,
):  # fmt: skip
    n, y, x = _tile(0, blocks_y, blocks_x, RADIUS)
    inside = (y >= 0) & (y < full_height) & (x >= 0) & (x < full_width)
    logits += n * logits_n
    corners, share_y, share_x = _corners(y, x, height, width, full_height, full_width, logits_y, logits_x)
    largest, log_sum = _log_sum_exp(logits, logits_c, channels, corners, share_y, share_x, RESIZED)
    same = _agreement(logits, logits_c, channels, corners, share_y, share_x, largest, log_sum, RADIUS, RESIZED)
    log_agreement = tl.zeros(y.shape, tl.float32)
    for i in tl.static_range(len(half_disk(RADIUS))):
        pair = _have_neighbour(y, x, full_height, full_width, RADIUS, i)
        bounded = tl.maximum(same[i], TINY, propagate_nan=tl.PropagateNan.ALL)
        bounded = tl.minimum(bounded, 1.0, propagate_nan=tl.PropagateNan.ALL)
        log_same = tl.where(pair, log(bounded), 0.0)
        log_agreement += log_same + _shift(log_same, RADIUS, i, -1)
    # Where 1 - e^t would cancel, its series is used, which does not.
    series = -log_agreement * (1 + log_agreement * (1 / 2 + log_agreement * (1 / 6 + log_agreement / 24)))
    chance = tl.where(log_agreement > -0.03, series, 1 - exp(log_agreement))
    place = n * full_height * full_width + (y * full_width + x)
    tl.store(result + place, chance, inside & _owned(RADIUS))
    tl.store(logarithm + place, log_agreement, inside & _owned(RADIUS))


@triton.jit(do_not_specialize=UNALIGNED)
def _soft_boundary_map_backward(
    logits,  # [N, C, h, w]
    grad_log,  # [N, 1, H, W]: of the logarithm
    grad_full,  # [N, C, rows, W]: of the upsampled logits of the rows from ``first`` on
    channels, height, width, full_height, full_width, first, rows, blocks_y, blocks_x,
    logits_n, logits_c, logits_y, logits_x, full_n, full_c, full_y, RADIUS: tl.constexpr, RESIZED: tl.constexpr,
):  # fmt: skip
    n, y, x = _tile(first, blocks_y, blocks_x, RADIUS)
    inside = (y >= 0) & (y < full_height) & (x >= 0) & (x < full_width)
    logits += n * logits_n
    corners, share_y, share_x = _corners(y, x, height, width, full_height, full_width, logits_y, logits_x)
    largest, log_sum = _log_sum_exp(logits, logits_c, channels, corners, share_y, share_x, RESIZED)
    same = _agreement(logits, logits_c, channels, corners, share_y, share_x, largest, log_sum, RADIUS, RESIZED)
    grad = tl.load(grad_log + n * full_height * full_width + (y * full_width + x), inside, 0)
    # With r_c = sqrt(P_c), a pair has B_pq = sum_c r_c(p) r_c(q), and log B_pq is a term of p's and of q's logarithm.
    # So grad B_pq = (grad_log(p) + grad_log(q)) / B_pq, and grad r_c(p) = sum_q grad B_pq r_c(q).
    # Since r_c = e^((z_c - log sum_k e^z_k) / 2), d r_c / d z_k = r_c / 2 ([c = k] - r_k^2). Hence
    # grad z_c = r_c / 2 (grad r_c - r_c sum_k r_k grad r_k), where sum_k r_k grad r_k = sum_q grad B_pq B_pq.
    grad_same = ()  # of each pair's B
    root_dot_grad = tl.zeros(y.shape, tl.float32)  # sum_k r_k grad r_k
    for i in tl.static_range(len(half_disk(RADIUS))):
        pair = _have_neighbour(y, x, full_height, full_width, RADIUS, i)
        grad_pair = tl.where(pair & (same[i] >= TINY), (grad + _shift(grad, RADIUS, i, 1)) / same[i], 0.0)
        grad_same += (grad_pair,)
        root_dot_grad += grad_pair * same[i] + _shift(grad_pair * same[i], RADIUS, i, -1)
    grad_full += n * full_n + (y - first).to(tl.int64) * full_y + x
    owned = inside & _owned(RADIUS) & (y < first + rows)
    for _ in range(channels):
        root = _root(logits, corners, share_y, share_x, largest, log_sum, RESIZED)
        grad_root = tl.zeros(y.shape, tl.float32)
        for i in tl.static_range(len(half_disk(RADIUS))):
            grad_root += grad_same[i] * _shift(root, RADIUS, i, 1) + _shift(grad_same[i] * root, RADIUS, i, -1)
        tl.store(grad_full, root / 2 * (grad_root - root * root_dot_grad), owned)
        logits += logits_c
        grad_full += full_c


@triton.jit(do_not_specialize=("first", "first_block", *VARYING))  # the former differ from band to band
def _upsample_band_backward(
    grad_full,  # [N, C, rows, W]: of the upsampled logits of the rows from ``first`` on
    grad,  # [N, C, h, w]: of the logits
    channels, height, width, full_height, full_width, first, rows, first_block, blocks_y, blocks_x,
    parts_y, parts_x, full_n, full_c, full_y, grad_n, grad_c, grad_y, grad_x,
    KY: tl.constexpr, KX: tl.constexpr, RESIZED: tl.constexpr,
):  # fmt: skip
    """Add to the gradient what this band of rows sends to it; the blocks are those that the band touches."""
    program = tl.program_id(0)
    cell_y, cell_x = cells(first_block + program // blocks_x % blocks_y, program % blocks_x)
    c = (program // (blocks_y * blocks_x) % channels).to(tl.int64)
    n = (program // (blocks_y * blocks_x) // channels).to(tl.int64)
    grad_full += n * full_n + c * full_c
    received = tl.zeros(cell_y.shape, tl.float32)
    for part_y in range(parts_y):
        y, share_y, inside_y = full_positions(cell_y, part_y, height, full_height, KY)
        inside_y = inside_y & (y >= first) & (y < first + rows)
        for part_x in range(parts_x):
            x, share_x, inside_x = full_positions(cell_x, part_x, width, full_width, KX)
            offsets = ((y - first) * full_y)[:, None, :] + x[None, :, :]
            sent = gather(grad_full, offsets, inside_y[:, None, :] & inside_x[None, :, :])
            received += upsample_backward(sent, share_y, share_x, RESIZED)
    owned = owns_pixel(cell_y, cell_x, height, width)
    grad += n * grad_n + c * grad_c + (cell_y * grad_y + cell_x * grad_x)
    tl.store(grad, tl.load(grad, owned, 0) + received, owned)


@triton.jit
def _tile(first, blocks_y, blocks_x, RADIUS: tl.constexpr):
    """This program's image (int64), and the pixels ``[EDGE * EDGE]`` of its tile and margin."""
    program = tl.program_id(0)
    place = tl.arange(0, EDGE * EDGE)
    y = first + program // blocks_x % blocks_y * (EDGE - 2 * RADIUS) - RADIUS + place // EDGE
    x = program % blocks_x * (EDGE - 2 * RADIUS) - RADIUS + place % EDGE
    return (program // (blocks_y * blocks_x)).to(tl.int64), y, x


@triton.jit
def _owned(RADIUS: tl.constexpr):
    """Which pixels belong to the tile, not to its margin."""
    row, column = tl.arange(0, EDGE * EDGE) // EDGE, tl.arange(0, EDGE * EDGE) % EDGE
    return (row >= RADIUS) & (row < EDGE - RADIUS) & (column >= RADIUS) & (column < EDGE - RADIUS)


@triton.jit
def _have_neighbour(y, x, height, width, RADIUS: tl.constexpr, INDEX: tl.constexpr):
    """Which pixels lie in the image together with their neighbours at the INDEX-th offset."""
    dy: tl.constexpr = half_disk(RADIUS)[INDEX][0]
    dx: tl.constexpr = half_disk(RADIUS)[INDEX][1]
    return (y >= 0) & (y + dy < height) & (x >= 0) & (x + dx >= 0) & (x < width) & (x + dx < width)


@triton.jit
def _shift(values, RADIUS: tl.constexpr, INDEX: tl.constexpr, SIGN: tl.constexpr):
    """``values`` at the INDEX-th offset of each pixel, or at the opposite one; those beyond the tile mean nothing."""
    place = tl.arange(0, EDGE * EDGE) + SIGN * (half_disk(RADIUS)[INDEX][0] * EDGE + half_disk(RADIUS)[INDEX][1])
    return tl.gather(values, tl.minimum(tl.maximum(place, 0), EDGE * EDGE - 1), 0)


@triton.jit
def _corners(y, x, height, width, full_height, full_width, stride_y, stride_x):
    """Offsets of the four pixels between which a full pixel lies, and the shares of the lower and of the right ones."""
    y0, y1, share_y = taps(tl.minimum(tl.maximum(y, 0), full_height - 1), height, full_height)
    x0, x1, share_x = taps(tl.minimum(tl.maximum(x, 0), full_width - 1), width, full_width)
    y0, y1, x0, x1 = y0 * stride_y, y1 * stride_y, x0 * stride_x, x1 * stride_x
    return (y0 + x0, y0 + x1, y1 + x0, y1 + x1), share_y, share_x


@triton.jit
def _logit(plane, corners, share_y, share_x, RESIZED: tl.constexpr):
    """The upsampled logits of one class."""
    top_left = load(plane + corners[0])
    if not RESIZED:
        return top_left
    top = lerp(top_left, load(plane + corners[1]), share_x)
    bottom = lerp(load(plane + corners[2]), load(plane + corners[3]), share_x)
    return lerp(top, bottom, share_y)


@triton.jit
def _log_sum_exp(logits, logits_c, channels, corners, share_y, share_x, RESIZED: tl.constexpr):
    """The largest logit of each pixel, and ``log sum_c e^(logit_c - largest)``."""
    channel = logits
    largest = tl.full(share_y.shape, float("-inf"), tl.float32)
    for _ in range(channels):
        largest = tl.maximum(largest, _logit(channel, corners, share_y, share_x, RESIZED))
        channel += logits_c
    largest = tl.where(largest == LOWEST, float("nan"), largest)  # all classes are impossible
    channel = logits
    total = tl.zeros(share_y.shape, tl.float32)
    for _ in range(channels):
        total += exp(_logit(channel, corners, share_y, share_x, RESIZED) - largest)
        channel += logits_c
    return largest, log(total)


@triton.jit
def _root(plane, corners, share_y, share_x, largest, log_sum, RESIZED: tl.constexpr):
    """The square root of a class's probability."""
    return exp((_logit(plane, corners, share_y, share_x, RESIZED) - largest - log_sum) / 2)


@triton.jit
def _agreement(
    logits, logits_c, channels, corners, share_y, share_x, largest, log_sum,
    RADIUS: tl.constexpr, RESIZED: tl.constexpr,
):  # fmt: skip
    """The Bhattacharyya coefficients of each pixel and its neighbour, for every offset of the half disk."""
    same = ()
    for _ in tl.static_range(len(half_disk(RADIUS))):
        same += (tl.zeros(share_y.shape, tl.float32),)
    for _ in range(channels):
        root = _root(logits, corners, share_y, share_x, largest, log_sum, RESIZED)
        summed = ()
        for i in tl.static_range(len(half_disk(RADIUS))):
            summed += (same[i] + root * _shift(root, RADIUS, i, 1),)
        same = summed
        logits += logits_c
    return same
