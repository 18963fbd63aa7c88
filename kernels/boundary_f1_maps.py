"""What the kernels of boundary_f1_loss know of each full pixel, in maps that only they see (see :mod:`.strips`)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementary import divide, repeated
from .memory import VARYING, check_edges, plane_strides, scatter
from .resize import cells, corner_offsets, cut_into_cells, full_positions, owns_full_pixels, part_of_image
from .softmax import largest_and_chosen, sum_of_exponentials
from .strips import SEGMENT, padded, row_size, segments

# What the map of kinds holds of a pixel that is not true boundary of its class: it is known; void is next to it; its
# label is no class; it is void.
INNER, UNCLEAR, NO_CLASS, VOID = tl.constexpr(-1), tl.constexpr(-2), tl.constexpr(-3), tl.constexpr(-4)
BLOCK = 128  # columns of a program that walks down labels
PIXELS = 512  # of a program that makes another map


class Maps(NamedTuple):
    kinds: Tensor  # [N, H, padded W], int32: the class of true boundary, or what else a pixel is
    near: Tensor  # [N, words, H, padded W], int32: bit c % 32 of word c // 32 tells of class c
    largest: Tensor  # [N, H, padded W], float32: the largest logit
    scales: Tensor  # [N, H, padded W], float32: 1 / sum_c e^(logit_c - largest)


def maps_of_pixels(
    logits: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    radius: int,
    ignore_index: int,
    tolerance: int,
) -> Maps:
    n, classes, *size = logits.shape
    height, width = full = labels.shape[-2:]
    check_edges(*size, *full)
    cut = cut_into_cells(size, full)
    words, blocks = triton.cdiv(classes, 32), triton.cdiv(height * padded(width), PIXELS)
    columns = triton.cdiv(padded(width), BLOCK)
    kinds = labels.new_empty(n, height, padded(width), dtype=torch.int32)
    largest, scales = (torch.empty_like(kinds, dtype=torch.float32) for _ in range(2))
    along_x, near = (kinds.new_empty(n, words, height, padded(width)) for _ in range(2))
    if n:
        _kinds_of_pixels[(n * segments(height) * columns,)](
            labels, kinds, largest, scales, classes, height, width, segments(height), columns,
            labels.stride(0), *plane_strides(labels), ignore_index, RADIUS=radius, BLOCK=BLOCK,
        )  # fmt: skip
        reach = min(tolerance, max(height, width))
        _near_along_x[(n * words * blocks,)](kinds, along_x, words, height, width, blocks, reach, PIXELS=PIXELS)
        _near_along_y[(n * words * blocks,)](along_x, near, height, width, blocks, reach, PIXELS=PIXELS)
        _largest_and_scales[(n * cut.programs,)](
            logits, largest, scales, classes, *size, *full, *cut.blocks, *cut.parts_yx,
            *logits.stride()[:2], *plane_strides(logits),
            KY=cut.k[0], KX=cut.k[1], RESIZED=cut.resized, num_warps=cut.warps,
        )  # fmt: skip
    return Maps(kinds, near, largest, scales)


@triton.jit(do_not_specialize=VARYING)
def _kinds_of_pixels(
    labels,  # [N, H, W]
    kinds,  # [N, H, padded W]
    largest,  # [N, H, padded W], of which only what is not in the image is written
    scales,  # [N, H, padded W], likewise
    classes, full_height, full_width, blocks_y, blocks_x, labels_n, labels_y, labels_x, ignore_index,
    RADIUS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    n = (program // (blocks_y * blocks_x)).to(tl.int64)
    first = program // blocks_x % blocks_y * SEGMENT
    x = program % blocks_x * BLOCK + tl.arange(0, BLOCK)
    labels += n * labels_n
    size = row_size(full_width)
    kinds += n * full_height * size
    largest += n * full_height * size
    scales += n * full_height * size
    # Of the last rows: the labels, and the lowest and the highest along x.
    none = tl.full([BLOCK], VOID, tl.int32)
    own, lowest, highest = repeated(none, RADIUS), repeated(none, 2 * RADIUS), repeated(none, 2 * RADIUS)
    for y in range(first - RADIUS, tl.minimum(first + SEGMENT, full_height) + RADIUS):
        # Clamping to the image moves a pixel of the window to another one of the window.
        row = labels + tl.minimum(tl.maximum(y, 0), full_height - 1) * labels_y
        label = _label_at(row, x, full_width, labels_x, classes, ignore_index)
        low, high = label, label
        for dx in tl.static_range(1, RADIUS + 1):
            before = _label_at(row, x - dx, full_width, labels_x, classes, ignore_index)
            behind = _label_at(row, x + dx, full_width, labels_x, classes, ignore_index)
            low = tl.minimum(low, tl.minimum(before, behind))
            high = tl.maximum(high, tl.maximum(before, behind))
        own += (label,)
        lowest += (low,)
        highest += (high,)
        low, high = lowest[0], highest[0]
        for i in tl.static_range(1, 2 * RADIUS + 1):
            low, high = tl.minimum(low, lowest[i]), tl.maximum(high, highest[i])
        kind = tl.where(low == VOID, UNCLEAR, tl.where(low != high, own[0], INNER))
        kind = tl.where(own[0] < 0, own[0], kind)
        place, owned = (y - RADIUS) * size + x, (y - RADIUS >= first) & (x < size)
        # What is not in the image counts for nothing, and its probability is infinite, so never the least.
        tl.store(kinds + place, tl.where(x < full_width, kind, VOID), owned)
        tl.store(largest + place, float("-inf"), owned & (x >= full_width))
        tl.store(scales + place, 1.0, owned & (x >= full_width))
        own, lowest, highest = own[1:], lowest[1:], highest[1:]


@triton.jit
def _label_at(row, x, width, labels_x, classes, ignore_index):
    """The labels of a row at the columns, or VOID, or NO_CLASS."""
    label = tl.load(row + tl.minimum(tl.maximum(x, 0), width - 1) * labels_x).to(tl.int64)
    known = tl.where((label >= 0) & (label < classes), label, NO_CLASS)
    return tl.where(label == ignore_index, VOID, known).to(tl.int32)


@triton.jit(do_not_specialize=VARYING)
def _near_along_x(
    kinds,  # [N, H, padded W]
    result,  # [N, words, H, padded W]
    words, full_height, full_width, blocks, reach, PIXELS: tl.constexpr,
):  # fmt: skip
    plane, pixel, y, x, size = _pixels(full_height, full_width, blocks, PIXELS)
    kinds += plane // words * size
    near = tl.zeros([PIXELS], tl.int32)
    for offset in range(-reach, reach + 1):
        exists = (y < full_height) & (x + offset >= 0) & (x + offset < full_width)
        kind = tl.load(kinds + (pixel + offset), exists, INNER)
        near |= tl.where(kind >> 5 == plane % words, 1 << (kind & 31), 0)  # a negative kind is in no word
    tl.store(result + plane * size + pixel, near, y < full_height)


@triton.jit(do_not_specialize=VARYING)
def _near_along_y(
    along_x,  # [N, words, H, padded W]
    result,  # [N, words, H, padded W]
    full_height, full_width, blocks, reach, PIXELS: tl.constexpr,
):  # fmt: skip
    plane, pixel, y, _, size = _pixels(full_height, full_width, blocks, PIXELS)
    along_x += plane * size
    near = tl.zeros([PIXELS], tl.int32)
    for offset in range(-reach, reach + 1):
        exists = (y + offset >= 0) & (y + offset < full_height)
        near |= tl.load(along_x + (pixel + offset * row_size(full_width)), exists, 0)
    tl.store(result + plane * size + pixel, near, y < full_height)


@triton.jit
def _pixels(height, width, blocks, PIXELS: tl.constexpr):
    """This program's plane (int64), the indices, rows and columns ``[PIXELS]`` of its pixels, and the size of a map."""
    program, row = tl.program_id(0), row_size(width)
    pixel = program % blocks * PIXELS + tl.arange(0, PIXELS)
    y = pixel // row
    return (program // blocks).to(tl.int64), pixel, y, pixel - y * row, height * row


@triton.jit(do_not_specialize=VARYING)
def _largest_and_scales(
    logits,  # [N, C, h, w]
    largest,  # [N, H, padded W]
    scales,  # [N, H, padded W]
    classes, height, width, full_height, full_width, blocks_y, blocks_x, parts_y, parts_x,
    logits_n, logits_c, logits_y, logits_x, KY: tl.constexpr, KX: tl.constexpr, RESIZED: tl.constexpr,
):  # fmt: skip
    n, part_y, part_x, block_y, block_x = part_of_image(blocks_y, blocks_x, parts_y, parts_x)
    cell_y, cell_x = cells(block_y, block_x)
    y, share_y, inside_y = full_positions(cell_y, part_y, height, full_height, KY)
    x, share_x, inside_x = full_positions(cell_x, part_x, width, full_width, KX)
    corners = corner_offsets(cell_y, cell_x, height, width, logits_y, logits_x)
    inside = inside_y[:, None, :] & (inside_x & owns_full_pixels(cell_y, cell_x)[None, :])[None, :, :]
    place = (y * row_size(full_width))[:, None, :] + x[None, :, :]
    logits += n * logits_n
    most, _ = largest_and_chosen(logits, logits_c, classes, place, corners, share_y, share_x, RESIZED)
    total = sum_of_exponentials(logits, logits_c, classes, most, corners, share_y, share_x, RESIZED)
    image = n * full_height * row_size(full_width)
    scatter(largest + image, place, most, inside)
    scatter(scales + image, place, divide(1.0, total), inside)
