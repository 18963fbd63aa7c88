"""local_correlation, without atomics.

In the forward a thread owns a cell and one row of offsets; in the backward it owns a cell and one channel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .memory import VARYING, check_edges

CELLS, WARPS = 256, 4  # of a program


def local_correlation(
    first: Tensor,  # [N, C, h, w]
    second: Tensor,  # [N, C, h, w]
    reach: int,
    groups: int,
) -> Tensor:
    """``[N, groups * span^2, h, w]``, where span is ``2 reach + 1``."""
    n, channels, height, width = first.shape
    check_edges(height, width)
    span, blocks = 2 * reach + 1, triton.cdiv(height * width, CELLS)
    result = first.new_empty(n, groups * span**2, height, width)
    if result.numel():
        _local_correlation[(n * groups * span * blocks,)](
            first.contiguous(), second.contiguous(), result, channels // groups, height, width, reach, span, blocks,
            CELLS=CELLS, num_warps=WARPS,
        )  # fmt: skip
    return result


def local_correlation_backward(
    grad: Tensor,  # [N, groups * span^2, h, w]
    first: Tensor,  # [N, C, h, w]
    second: Tensor,  # [N, C, h, w]
    reach: int,
    groups: int,
    wants_first: bool,
    wants_second: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of first and second; one that is not wanted is empty."""
    n, channels, height, width = first.shape
    span, blocks = 2 * reach + 1, triton.cdiv(height * width, CELLS)
    grad_first, grad_second = (
        torch.empty(maps.shape if wanted else (0,), dtype=maps.dtype, device=maps.device)
        for maps, wanted in ((first, wants_first), (second, wants_second))
    )
    if first.numel():
        _local_correlation_backward[(n * channels * blocks,)](
            grad.contiguous(), first.contiguous(), second.contiguous(), grad_first, grad_second,
            channels // groups, height, width, reach, span, blocks,
            WANTS_FIRST=wants_first, WANTS_SECOND=wants_second, CELLS=CELLS, num_warps=WARPS,
        )  # fmt: skip
    return grad_first, grad_second


@triton.jit(do_not_specialize=VARYING)
def _local_correlation(
    first,  # [N, C, h, w]
    second,  # [N, C, h, w]
    result,  # [N, groups * span^2, h, w]
    channels, height, width, reach, span, blocks,  # channels of a group
    CELLS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    cell = program % blocks * CELLS + tl.arange(0, CELLS)
    dy = program // blocks % span - reach
    group = (program // (blocks * span)).to(tl.int64)
    cells = height * width
    y, x = cell // width, cell % width
    first += group * channels * cells
    second += group * channels * cells
    result += (group * span + (dy + reach)) * span * cells
    hit_y = (cell < cells) & (y + dy >= 0) & (y + dy < height)
    for dx in range(-reach, reach + 1):
        hit = hit_y & (x + dx >= 0) & (x + dx < width)
        total = tl.zeros([CELLS], tl.float32)
        for c in range(channels):
            here = tl.load(first + (c * cells + cell), hit, 0).to(tl.float32)
            total += here * tl.load(second + (c * cells + cell + dy * width + dx), hit, 0).to(tl.float32)
        tl.store(result + cell, (total / channels).to(result.dtype.element_ty), cell < cells)
        result += cells


@triton.jit(do_not_specialize=VARYING)
def _local_correlation_backward(
    grad,  # [N, groups * span^2, h, w]
    first,  # [N, C, h, w]
    second,  # [N, C, h, w]
    grad_first,  # [N, C, h, w], or [0]
    grad_second,  # [N, C, h, w], or [0]
    channels, height, width, reach, span, blocks,  # channels of a group
    WANTS_FIRST: tl.constexpr, WANTS_SECOND: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    cell = program % blocks * CELLS + tl.arange(0, CELLS)
    channel = (program // blocks).to(tl.int64)
    cells = height * width
    y, x = cell // width, cell % width
    grad += channel // channels * span * span * cells
    first += channel * cells
    second += channel * cells
    # An output is result_d(p) = mean_c first_c(p) second_c(p + d). So, from every offset d, first_c(p) gets
    # grad_d(p) second_c(p + d) / channels, and second_c(q), which p = q - d reads, gets
    # grad_d(q - d) first_c(q - d) / channels.
    sum_first, sum_second = tl.zeros([CELLS], tl.float32), tl.zeros([CELLS], tl.float32)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            offset = dy * width + dx
            if WANTS_FIRST:
                hit = (cell < cells) & (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
                g = tl.load(grad + cell, hit, 0).to(tl.float32)
                sum_first += g * tl.load(second + (cell + offset), hit, 0).to(tl.float32)
            if WANTS_SECOND:
                hit = (cell < cells) & (y - dy >= 0) & (y - dy < height) & (x - dx >= 0) & (x - dx < width)
                g = tl.load(grad + (cell - offset), hit, 0).to(tl.float32)
                sum_second += g * tl.load(first + (cell - offset), hit, 0).to(tl.float32)
            grad += cells
    place = channel * cells + cell
    if WANTS_FIRST:
        tl.store(grad_first + place, (sum_first / channels).to(grad_first.dtype.element_ty), cell < cells)
    if WANTS_SECOND:
        tl.store(grad_second + place, (sum_second / channels).to(grad_second.dtype.element_ty), cell < cells)
