"""boundary_f1_loss: maps of the labels, a pass over the pixels for each class's sums, and one for the gradient.

The maps say of each pixel whether it is true boundary, and near which classes' boundaries it lies. A program then owns
a tile of full pixels (see :mod:`.tiles`). For each class it makes the probabilities, and takes their least in windows:
of three along x, radius times, and of three of these along y, radius times. The gradient goes the same way back.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementary import divide, exp
from .layout import empty_gradient
from .memory import VARYING, check_edges, plane_strides
from .resize import cut_into_cells
from .softmax import totals_of_classes
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

# What the map of kinds holds of a pixel that is not true boundary of its class: it is known; void is next to it; it is
# void; its label is no class.
INNER, UNCLEAR, VOID, NO_CLASS = tl.constexpr(-1), tl.constexpr(-2), tl.constexpr(-3), tl.constexpr(-4)
OUTSIDE = tl.constexpr(2.0)  # stands for the probability of a pixel that does not exist, and is never the least
BLOCK = 512  # pixels of a program that makes a map
LARGEST_RADIUS = 3  # The margin of a larger one would leave little of a tile.


def boundary_f1_loss(
    logits: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    radius: int,
    ignore_index: int,
    tolerance: int,
    sums: Tensor | None,  # [4, C], float64; None: their own
) -> tuple[Tensor, Tensor]:
    """The loss, and its slopes ``[3, C]``: see :func:`_mean_f1`."""
    totals = boundary_f1_sums(logits, labels, radius, ignore_index, tolerance) if sums is None else sums
    classes = logits.shape[1]
    loss, slopes = (logits.new_empty(shape, dtype=torch.float32) for shape in ((), (3, classes)))
    _mean_f1[(1,)](totals, loss, slopes, classes, CLASSES=triton.next_power_of_2(classes))
    return loss, slopes


def boundary_f1_sums(
    logits: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    radius: int,
    ignore_index: int,
    tolerance: int,
) -> Tensor:
    """Each class's sums over the pixels, ``[4, C]``, float64: see :func:`_mean_f1`."""
    n, classes, *size = logits.shape
    full = labels.shape[-2:]
    check_edges(*size, *full)
    blocks = tiles(full[0], radius), tiles(full[1], radius)
    programs = n * blocks[0] * blocks[1]
    sums = logits.new_empty(4, classes, programs, dtype=torch.float32)
    if n:
        kinds, near = _maps_of_labels(labels, classes, radius, ignore_index, tolerance)
        _sums_of_boundaries[(programs,)](
            logits, kinds, near, sums, programs, classes, *size, *full, *blocks,
            *logits.stride()[:2], *plane_strides(logits), RADIUS=radius, RESIZED=tuple(size) != full, num_warps=WARPS,
        )  # fmt: skip
    return totals_of_classes(sums)


def boundary_f1_loss_backward(
    logits: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    slopes: Tensor,  # [3, C], times the gradient of the loss
    radius: int,
    ignore_index: int,
    tolerance: int,
) -> Tensor:
    """``[N, C, h, w]``: the gradient of the logits."""
    n, classes, *size = logits.shape
    full = labels.shape[-2:]
    cut = cut_into_cells(size, full)
    kinds, near = _maps_of_labels(labels, classes, radius, ignore_index, tolerance)
    grad_full = logits.new_empty(n, classes, band_of(full[0]), full[1], dtype=torch.float32)
    grad_logits = empty_gradient(logits).zero_()
    for first, rows in bands(full[0]) if n else ():
        blocks = tiles(rows, 2 * radius), tiles(full[1], 2 * radius)
        _boundary_f1_loss_backward[(n * blocks[0] * blocks[1],)](
            logits, kinds, near, slopes, grad_full, classes, *size, *full, first, rows, *blocks,
            *logits.stride()[:2], *plane_strides(logits), *grad_full.stride()[:3],
            RADIUS=radius, RESIZED=cut.resized, num_warps=WARPS,
            maxnreg=128 if radius < LARGEST_RADIUS else None,  # two programs fit on a multiprocessor, if none spills
        )  # fmt: skip
        add_band(grad_full, grad_logits, full, first, rows, cut)
    return grad_logits.to(logits.dtype)


def _maps_of_labels(
    labels: Tensor,  # [N, H, W]
    classes: int,
    radius: int,
    ignore_index: int,
    tolerance: int,
) -> tuple[Tensor, Tensor]:
    """Two int32 maps: the class ``[N, H, W]`` of true boundary, or what else a pixel is; and ``[N, words, H, W]``, of
    which bit ``c % 32`` of word ``c // 32`` tells whether true boundary of class c lies within the tolerance."""
    n, height, width = labels.shape
    words, blocks = triton.cdiv(classes, 32), triton.cdiv(height * width, BLOCK)
    kinds = labels.new_empty(n, height, width, dtype=torch.int32)
    along_x, near = (kinds.new_empty(n, words, height, width) for _ in range(2))
    if n:
        _kinds_of_pixels[(n * blocks,)](
            labels, kinds, classes, height, width, blocks, labels.stride(0), *plane_strides(labels), ignore_index,
            RADIUS=radius, BLOCK=BLOCK,
        )  # fmt: skip
        reach = min(tolerance, max(height, width))
        _near_along_x[(n * words * blocks,)](kinds, along_x, words, height, width, blocks, reach, BLOCK=BLOCK)
        _near_along_y[(n * words * blocks,)](along_x, near, height, width, blocks, reach, BLOCK=BLOCK)
    return kinds, near


@triton.jit(do_not_specialize=VARYING)
def _kinds_of_pixels(
    labels,  # [N, H, W]
    kinds,  # [N, H, W]
    classes, full_height, full_width, blocks, labels_n, labels_y, labels_x, ignore_index,
    RADIUS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n, pixel, y, x = _pixels(full_width, blocks, BLOCK)
    labels += n * labels_n
    y = tl.minimum(y, full_height - 1)
    label = tl.load(labels + (y * labels_y + x * labels_x)).to(tl.int64)
    known, differs = label != ignore_index, label != label
    # Clamping to the image moves a pixel of the window to another one of the window.
    for dy in range(-RADIUS, RADIUS + 1):
        row = labels + tl.minimum(tl.maximum(y + dy, 0), full_height - 1) * labels_y
        for dx in range(-RADIUS, RADIUS + 1):
            other = tl.load(row + tl.minimum(tl.maximum(x + dx, 0), full_width - 1) * labels_x).to(tl.int64)
            known &= other != ignore_index
            differs |= other != label
    kind = tl.where(known, tl.where(differs, label, INNER), UNCLEAR)
    kind = tl.where((label >= 0) & (label < classes), kind, NO_CLASS)
    kind = tl.where(label == ignore_index, VOID, kind)
    size = full_height * full_width
    tl.store(kinds + n * size + pixel, kind.to(tl.int32), pixel < size)


@triton.jit(do_not_specialize=VARYING)
def _near_along_x(
    kinds,  # [N, H, W]
    result,  # [N, words, H, W]
    words, full_height, full_width, blocks, reach, BLOCK: tl.constexpr,
):  # fmt: skip
    plane, pixel, _, x = _pixels(full_width, blocks, BLOCK)
    size = full_height * full_width
    kinds += plane // words * size
    near = tl.zeros([BLOCK], tl.int32)
    for offset in range(-reach, reach + 1):
        exists = (pixel < size) & (x + offset >= 0) & (x + offset < full_width)
        kind = tl.load(kinds + (pixel + offset), exists, INNER)
        near |= tl.where(kind >> 5 == plane % words, 1 << (kind & 31), 0)  # a negative kind is in no word
    tl.store(result + plane * size + pixel, near, pixel < size)


@triton.jit(do_not_specialize=VARYING)
def _near_along_y(
    along_x,  # [N, words, H, W]
    result,  # [N, words, H, W]
    full_height, full_width, blocks, reach, BLOCK: tl.constexpr,
):  # fmt: skip
    plane, pixel, y, _ = _pixels(full_width, blocks, BLOCK)
    size = full_height * full_width
    along_x += plane * size
    near = tl.zeros([BLOCK], tl.int32)
    for offset in range(-reach, reach + 1):
        exists = (y + offset >= 0) & (y + offset < full_height)
        near |= tl.load(along_x + (pixel + offset * full_width), exists, 0)
    tl.store(result + plane * size + pixel, near, pixel < size)


@triton.jit
def _pixels(width, blocks, BLOCK: tl.constexpr):
    """This program's plane (int64), and the indices, rows and columns ``[BLOCK]`` of its pixels."""
    program = tl.program_id(0)
    pixel = program % blocks * BLOCK + tl.arange(0, BLOCK)
    y = pixel // width
    return (program // blocks).to(tl.int64), pixel, y, pixel - y * width


@triton.jit(do_not_specialize=VARYING)
def _sums_of_boundaries(
    logits,  # [N, C, h, w]
    kinds,  # [N, H, W]
    near,  # [N, words, H, W]
    sums,  # [4, C, programs]
    programs, classes, height, width, full_height, full_width, blocks_y, blocks_x,
    logits_n, logits_c, logits_y, logits_x, RADIUS: tl.constexpr, RESIZED: tl.constexpr,
):  # fmt: skip
    n, y, x = tile_of_image(0, blocks_y, blocks_x, RADIUS)
    inside = (y >= 0) & (y < full_height) & (x >= 0) & (x < full_width)
    corners, share_y, share_x = corners_of(y, x, height, width, full_height, full_width, logits_y, logits_x)
    logits += n * logits_n
    largest, sum_exp = largest_and_sum(logits, logits_c, classes, corners, share_y, share_x, RESIZED)
    scale = divide(1.0, sum_exp)
    pixel, counted = y * full_width + x, inside & in_tile(RADIUS)
    size = tl.cast(full_height, tl.int64) * full_width
    kind = tl.load(kinds + n * size + pixel, counted, VOID)
    near += n * ((classes + 31) // 32) * size + pixel  # added once, it spares registers here
    step = tl.cast(programs, tl.int64)
    sums += tl.program_id(0)
    for c in range(classes):
        chance = exp(logit_at(logits, corners, share_y, share_x, RESIZED) - largest) * scale
        chance = tl.where(inside, chance, OUTSIDE)
        least, _, _ = _least_of_window(_least_of_window(chance, 1, RADIUS)[0], EDGE, RADIUS)
        boundary = tl.where(kind >= INNER, chance - least, 0.0)
        boundary = tl.where(kind == NO_CLASS, float("nan"), boundary)  # it must not pass in silence
        true = kind == c
        tl.store(sums, tl.sum(boundary, 0))
        tl.store(sums + classes * step, tl.sum(tl.where(_is_near(near + c // 32 * size, c, counted), boundary, 0.0), 0))
        tl.store(sums + 2 * classes * step, tl.sum(tl.where(true, boundary, 0.0), 0))
        tl.store(sums + 3 * classes * step, tl.sum(true.to(tl.float32), 0))
        logits += logits_c
        sums += step


@triton.jit
def _mean_f1(
    totals,  # [4, C]: B = sum b, W = sum b near, R = sum b t and T = sum t, where b is predicted and t true boundary
    loss,  # []
    slopes,  # [3, C]
    classes, CLASSES: tl.constexpr,
):  # fmt: skip
    """The mean loss of K classes, and its derivatives by B, W and R.

    A class has the loss ``1 - F``, where ``F = 2 W R / D`` and ``D = W T + R B``. So ``-dF/dB = 2 W (R / D)^2``,
    ``-dF/dW = -2 B (R / D)^2`` and ``-dF/dR = -2 T (W / D)^2``, each divided by K.
    """
    c = tl.arange(0, CLASSES)
    exists = c < classes
    predicted = tl.load(totals + c, exists, 0)
    within = tl.load(totals + classes + c, exists, 0)
    found = tl.load(totals + 2 * classes + c, exists, 0)
    truth = tl.load(totals + 3 * classes + c, exists, 0)
    # A class that has no true boundary is left out, unless its sum is NaN, which must not pass in silence.
    counts = exists & ((truth > 0) | (predicted != predicted))
    count = tl.maximum(tl.sum(counts.to(tl.float64), 0), 1.0)
    size = within * truth + found * predicted
    size = tl.where(size == 0, 1.0, size)  # W and R are 0 there, and so are F and its derivatives
    precise, complete = within / size, found / size
    tl.store(loss, tl.sum(tl.where(counts, 1 - 2 * within * complete, 0.0), 0) / count)
    weight = tl.where(counts, 2 / count, 0.0)
    tl.store(slopes + c, tl.where(counts, weight * within * complete * complete, 0.0), exists)
    tl.store(slopes + classes + c, tl.where(counts, -weight * predicted * complete * complete, 0.0), exists)
    tl.store(slopes + 2 * classes + c, tl.where(counts, -weight * truth * precise * precise, 0.0), exists)


# A class's b is p minus the least p of the window. So its derivative goes to the pixel's p, and with the other sign to
# the p of the first pixel in the window, row by row, that has the least. The first row with the least and the first
# pixel with the least of that row lead there. With g_c the derivative by a pixel's p_c, that by its logit z_c is
# p_c (g_c - sum_k p_k g_k), which is known after g was made of all classes.
@triton.jit(do_not_specialize=("first", *VARYING))
def _boundary_f1_loss_backward(
    logits,  # [N, C, h, w]
    kinds,  # [N, H, W]
    near,  # [N, words, H, W]
    slopes,  # [3, C]
    grad_full,  # [N, C, rows, W]: of the upsampled logits of the rows from ``first`` on
    classes, height, width, full_height, full_width, first, rows, blocks_y, blocks_x,
    logits_n, logits_c, logits_y, logits_x, full_n, full_c, full_y, RADIUS: tl.constexpr, RESIZED: tl.constexpr,
):  # fmt: skip
    n, y, x = tile_of_image(first, blocks_y, blocks_x, 2 * RADIUS)
    inside = (y >= 0) & (y < full_height) & (x >= 0) & (x < full_width)
    corners, share_y, share_x = corners_of(y, x, height, width, full_height, full_width, logits_y, logits_x)
    logits += n * logits_n
    largest, sum_exp = largest_and_sum(logits, logits_c, classes, corners, share_y, share_x, RESIZED)
    scale = divide(1.0, sum_exp)
    size, pixel = tl.cast(full_height, tl.int64) * full_width, y * full_width + x
    kind = tl.load(kinds + n * size + pixel, inside, VOID)
    near += n * ((classes + 31) // 32) * size
    owned = inside & in_tile(2 * RADIUS) & (y < first + rows)
    grad_full += n * full_n
    place = (y - first) * full_y + x

    channel, grad = logits, grad_full
    dot = tl.zeros(y.shape, tl.float32)
    for c in range(classes):
        chance = exp(logit_at(channel, corners, share_y, share_x, RESIZED) - largest) * scale
        chance = tl.where(inside, chance, OUTSIDE)
        slope = tl.load(slopes + c)
        slope += tl.where(_is_near(near + c // 32 * size + pixel, c, inside), tl.load(slopes + classes + c), 0.0)
        slope += tl.where(kind == c, tl.load(slopes + 2 * classes + c), 0.0)
        slope = tl.where(kind >= INNER, slope, 0.0)
        least, before, here = _least_of_window(tl.where(chance == chance, chance, -1.0), 1, RADIUS)  # NaN is the least
        _, above, beside = _least_of_window(least, EDGE, RADIUS)
        grad_chance = slope - _sent(_sent(slope, above, beside, EDGE, RADIUS), before, here, 1, RADIUS)
        tl.store(grad + place, grad_chance, owned)
        dot += chance * grad_chance
        channel += logits_c
        grad += full_c

    tl.debug_barrier()  # what is read now may have been written by another thread
    for _ in range(classes):
        chance = exp(logit_at(logits, corners, share_y, share_x, RESIZED) - largest) * scale
        grad_logit = chance * (tl.load(grad_full + place, owned, 0) - dot)
        tl.store(grad_full + place, tl.where(kind == VOID, 0.0, grad_logit), owned)
        logits += logits_c
        grad_full += full_c


@triton.jit
def _is_near(words, c, exists):
    """Whether true boundary of class c is within the tolerance of each pixel."""
    return (tl.load(words, exists, 0) >> (c % 32)) & 1 != 0


@triton.jit
def _least_of_window(values, STEP: tl.constexpr, RADIUS: tl.constexpr):
    """The least of each value and those up to RADIUS steps before and behind it, by taking that of three RADIUS times.

    Each time it is first met a step before a place, or here, or behind it: returns also which, from the first time on.
    """
    least, before, here = values, (), ()
    for _ in tl.static_range(RADIUS):
        previous, following = shift(least, -STEP), shift(least, STEP)
        of_two = tl.minimum(previous, least, propagate_nan=tl.PropagateNan.ALL)
        of_three = tl.minimum(of_two, following, propagate_nan=tl.PropagateNan.ALL)
        is_before = previous == of_three
        before += (is_before,)
        here += ((least == of_three) & (is_before == 0),)
        least = of_three
    return least, before, here


@triton.jit
def _sent(grad, before, here, STEP: tl.constexpr, RADIUS: tl.constexpr):
    """What each place is sent if every place sends its gradient where the least of its window is first met."""
    for i in tl.static_range(RADIUS - 1, -1, -1):
        to_before, to_behind = tl.where(before[i], grad, 0.0), tl.where(before[i] | here[i], 0.0, grad)
        grad = tl.where(here[i], grad, 0.0) + shift(to_before, STEP) + shift(to_behind, -STEP)
    return grad
