"""local_correlation: a thread owns a cell, for one row of offsets forward and for one channel backward; no atomics."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .memory import check_edges

CELLS, WARPS = 256, 4  # of a program


def local_correlation(first: Tensor, second: Tensor, reach: int, groups: int) -> Tensor:
    """``(N, C, h, w)`` twice to ``(N, groups * span^2, h, w)``, span ``2 reach + 1``."""
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
    grad: Tensor, first: Tensor, second: Tensor, reach: int, groups: int, of_first: bool, of_second: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of first and second; empty where not asked for."""
    n, channels, height, width = first.shape
    span, blocks = 2 * reach + 1, triton.cdiv(height * width, CELLS)
    grad_first, grad_second = (
        torch.empty(maps.shape if wanted else (0,), dtype=maps.dtype, device=maps.device)
        for maps, wanted in ((first, of_first), (second, of_second))
    )
    if first.numel():
        _local_correlation_backward[(n * channels * blocks,)](
            grad.contiguous(), first.contiguous(), second.contiguous(), grad_first, grad_second,
            channels // groups, height, width, reach, span, blocks,
            OF_FIRST=of_first, OF_SECOND=of_second, CELLS=CELLS, num_warps=WARPS,
        )  # fmt: skip
    return grad_first, grad_second


@triton.jit
def _local_correlation(
    first, second, result, channels, height, width, reach, span, blocks, CELLS: tl.constexpr
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


@triton.jit
def _local_correlation_backward(
    grad, first, second, grad_first, grad_second, channels, height, width, reach, span, blocks,
    OF_FIRST: tl.constexpr, OF_SECOND: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    cell = program % blocks * CELLS + tl.arange(0, CELLS)
    channel = (program // blocks).to(tl.int64)
    cells = height * width
    y, x = cell // width, cell % width
    grad += channel // channels * span * span * cells
    first += channel * cells
    second += channel * cells
    by_first, by_second = tl.zeros([CELLS], tl.float32), tl.zeros([CELLS], tl.float32)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            offset = dy * width + dx
            if OF_FIRST:
                hit = (cell < cells) & (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
                g = tl.load(grad + cell, hit, 0).to(tl.float32)
                by_first += g * tl.load(second + (cell + offset), hit, 0).to(tl.float32)
            if OF_SECOND:
                hit = (cell < cells) & (y - dy >= 0) & (y - dy < height) & (x - dx >= 0) & (x - dx < width)
                g = tl.load(grad + (cell - offset), hit, 0).to(tl.float32)
                by_second += g * tl.load(first + (cell - offset), hit, 0).to(tl.float32)
            grad += cells
    if OF_FIRST:
        tl.store(
            grad_first + (channel * cells + cell), (by_first / channels).to(grad_first.dtype.element_ty), cell < cells
        )
    if OF_SECOND:
        tl.store(
            grad_second + (channel * cells + cell),
            (by_second / channels).to(grad_second.dtype.element_ty),
            cell < cells,
        )
