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
from .memory import VARYING, check_edges, plane_strides
from .resize import cut_into_cells
from .tiles import (
    EDGE,
    WARPS,
    add_band,
    band_of,
    bands,
    corners_of,
    in_tile,
    largest_and_sum,
    logit_at,
    shift,
    tile_of_image,
    tiles,
)

LARGEST_RADIUS = 3  # The margin of a larger one would leave little of a tile, and its offsets would fill the registers.
TINY = tl.constexpr(torch.finfo(torch.float32).tiny)
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
    blocks = tiles(size[0], radius), tiles(size[1], radius)
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
    grad_full = logits.new_empty(n, channels, band_of(height), width, dtype=torch.float32)
    grad_logits = empty_gradient(logits).zero_()
    for first, rows in bands(height) if n else ():
        blocks = tiles(rows, radius), tiles(width, radius)
        _soft_boundary_map_backward[(n * blocks[0] * blocks[1],)](
            logits, grad_log, grad_full, *logits.shape[1:], *size, first, rows, *blocks,
            *logits.stride()[:2], *plane_strides(logits), *grad_full.stride()[:3],
            RADIUS=radius, RESIZED=cut.resized, num_warps=WARPS,
        )  # fmt: skip
        add_band(grad_full, grad_logits, size, first, rows, cut)
    return grad_logits.to(logits.dtype)


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
    n, y, x = tile_of_image(0, blocks_y, blocks_x, RADIUS)
    inside = (y >= 0) & (y < full_height) & (x >= 0) & (x < full_width)
    logits += n * logits_n
    corners, share_y, share_x = corners_of(y, x, height, width, full_height, full_width, logits_y, logits_x)
    largest, sum_exp = largest_and_sum(logits, logits_c, channels, corners, share_y, share_x, RESIZED)
    log_sum = log(sum_exp)
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
    tl.store(result + place, chance, inside & in_tile(RADIUS))
    tl.store(logarithm + place, log_agreement, inside & in_tile(RADIUS))


@triton.jit(do_not_specialize=UNALIGNED)
def _soft_boundary_map_backward(
    logits,  # [N, C, h, w]
    grad_log,  # [N, 1, H, W]: of the logarithm
    grad_full,  # [N, C, rows, W]: of the upsampled logits of the rows from ``first`` on
    channels, height, width, full_height, full_width, first, rows, blocks_y, blocks_x,
    logits_n, logits_c, logits_y, logits_x, full_n, full_c, full_y, RADIUS: tl.constexpr, RESIZED: tl.constexpr,
):  # fmt: skip
    n, y, x = tile_of_image(first, blocks_y, blocks_x, RADIUS)
    inside = (y >= 0) & (y < full_height) & (x >= 0) & (x < full_width)
    logits += n * logits_n
    corners, share_y, share_x = corners_of(y, x, height, width, full_height, full_width, logits_y, logits_x)
    largest, sum_exp = largest_and_sum(logits, logits_c, channels, corners, share_y, share_x, RESIZED)
    log_sum = log(sum_exp)
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
    owned = inside & in_tile(RADIUS) & (y < first + rows)
    for _ in range(channels):
        root = _root(logits, corners, share_y, share_x, largest, log_sum, RESIZED)
        grad_root = tl.zeros(y.shape, tl.float32)
        for i in tl.static_range(len(half_disk(RADIUS))):
            grad_root += grad_same[i] * _shift(root, RADIUS, i, 1) + _shift(grad_same[i] * root, RADIUS, i, -1)
        tl.store(grad_full, root / 2 * (grad_root - root * root_dot_grad), owned)
        logits += logits_c
        grad_full += full_c


@triton.jit
def _have_neighbour(y, x, height, width, RADIUS: tl.constexpr, INDEX: tl.constexpr):
    """Which pixels lie in the image together with their neighbours at the INDEX-th offset."""
    dy: tl.constexpr = half_disk(RADIUS)[INDEX][0]
    dx: tl.constexpr = half_disk(RADIUS)[INDEX][1]
    return (y >= 0) & (y + dy < height) & (x >= 0) & (x + dx >= 0) & (x < width) & (x + dx < width)


@triton.jit
def _shift(values, RADIUS: tl.constexpr, INDEX: tl.constexpr, SIGN: tl.constexpr):
    """``values`` at the INDEX-th offset of each pixel, or at the opposite one."""
    return shift(values, SIGN * (half_disk(RADIUS)[INDEX][0] * EDGE + half_disk(RADIUS)[INDEX][1]))


@triton.jit
def _root(plane, corners, share_y, share_x, largest, log_sum, RESIZED: tl.constexpr):
    """The square root of a class's probability."""
    return exp((logit_at(plane, corners, share_y, share_x, RESIZED) - largest - log_sum) / 2)


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
