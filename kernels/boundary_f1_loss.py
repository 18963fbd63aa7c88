"""boundary_f1_loss: maps of the pixels, a walk over them for each class's sums, and one for the gradient.

The maps (see :mod:`.boundary_f1_maps`) say of each pixel whether it is true boundary, near which classes' boundaries it
lies, and the logarithm of its sum of exponentials. Programs then walk down strips of pixels (see :mod:`.strips`), each
with a few classes: the least probability within the radius is sought along x, and of these the least along y. The
gradient goes the same way back. That by the probabilities is stored for one band of rows at a time, for it becomes that
of the logits only when those of all classes are known.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .boundary_f1_maps import INNER, NO_CLASS, VOID, Maps, maps_of_pixels
from .elementary import add_tuples, exp, repeated
from .layout import empty_gradient
from .memory import VARYING, gather, plane_strides
from .resize import (
    Cells,
    cells,
    corner_offsets,
    cut_into_cells,
    full_positions,
    owns_pixel,
    share_of_second,
    upsample,
    upsample_backward,
)
from .softmax import totals_of_classes
from .strips import (
    GROUP,
    LANES,
    QUAD,
    SEGMENT,
    cell_of,
    classes_of,
    columns_of,
    groups,
    in_strip,
    least,
    load_quads,
    logits_of_cell,
    padded,
    row_size,
    rows_of,
    segments,
    store_quads,
    strip_of_image,
    strips,
    sum_with_neighbors,
    with_neighbors,
)
from .tiles import band_of, bands, blocks_of_band

LARGEST_RADIUS = 3  # A larger one would need more columns of the neighbors' than they have.


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
    maps = maps_of_pixels(logits, labels, radius, ignore_index, tolerance)
    blocks = segments(full[0]), strips(full[1], radius)
    programs = n * blocks[0] * blocks[1]
    sums = logits.new_empty(4, classes, programs, dtype=torch.float32)
    if n:
        _sums_of_boundaries[(programs * groups(classes),)](
            logits, *maps, sums, programs, classes, *size, *full, *blocks,
            *logits.stride()[:2], *plane_strides(logits), RADIUS=radius, RESIZED=tuple(size) != full,
            num_warps=GROUP.value,
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
    maps = maps_of_pixels(logits, labels, radius, ignore_index, tolerance)
    band = logits.new_empty(n, classes, band_of(full[0]), padded(full[1]), dtype=torch.float32)
    grad_logits = empty_gradient(logits).zero_()
    for first, rows in bands(full[0]) if n else ():
        blocks = segments(rows), strips(full[1], 2 * radius)
        _boundary_f1_loss_backward[(n * blocks[0] * blocks[1] * groups(classes),)](
            logits, *maps, slopes, band, classes, *size, *full, first, rows, band.shape[2], *blocks,
            *logits.stride()[:2], *plane_strides(logits),
            RADIUS=radius, RESIZED=cut.resized, num_warps=GROUP.value,
        )  # fmt: skip
        _add_band(logits, maps, band, grad_logits, full, first, rows, cut)
    return grad_logits.to(logits.dtype)


def _add_band(
    logits: Tensor,  # [N, C, h, w]
    maps: Maps,
    band: Tensor,  # [N, C, band, padded W]: of the probabilities of the rows from ``first`` on
    grad: Tensor,  # [N, C, h, w]: of the logits
    full: Sequence[int],  # H, W
    first: int,
    rows: int,
    cut: Cells,
) -> None:
    """Add to the gradient what a band of rows sends to it."""
    n, classes, *size = logits.shape
    first_block, blocks_y = blocks_of_band(first, rows, size[0], full[0])
    k = min(cut.k[0], 2)  # a thread that held more rows would spill
    _add_gradient_of_band[(n * blocks_y * cut.blocks[1],)](
        logits, maps.kinds, maps.largest, maps.scales, band, grad, classes, *size, *full, first, rows, band.shape[2],
        first_block, blocks_y, cut.blocks[1], cut.parts_yx[0] * cut.k[0] // k, cut.parts_yx[1],
        *logits.stride()[:2], *plane_strides(logits), *grad.stride(),
        KY=k, KX=cut.k[1], RESIZED=cut.resized, num_warps=cut.warps, maxnreg=128,
    )  # fmt: skip


@triton.jit(do_not_specialize=VARYING)
def _sums_of_boundaries(
    logits,  # [N, C, h, w]
    kinds,  # [N, H, padded W]
    near,  # [N, words, H, padded W]
    largest,  # [N, H, padded W]
    scales,  # [N, H, padded W]
    sums,  # [4, C, programs]
    programs, classes, height, width, full_height, full_width, blocks_y, blocks_x,
    logits_n, logits_c, logits_y, logits_x, RADIUS: tl.constexpr, RESIZED: tl.constexpr,
):  # fmt: skip
    n, first, first_class, first_quad = strip_of_image(0, blocks_y, blocks_x, classes, RADIUS)
    size = full_height * row_size(full_width)
    c = first_class + tl.arange(0, GROUP)[:, None]
    known_c = tl.minimum(c, classes - 1)
    logits += n * logits_n + classes_of(first_class, classes).to(tl.int64) * logits_c
    kinds += n * size
    largest += n * size
    scales += n * size
    near += (n * ((classes + 31) // 32) + first_class // 32) * size
    bit = 1 << known_c % 32
    columns = columns_of(first_quad, width, full_width, logits_x)
    end = tl.minimum(first + SEGMENT, full_height)

    # Of the last rows: the probabilities, and the least of them along x.
    zero = tl.zeros([GROUP, LANES], tl.int32)
    chances, lows = repeated(zero, RADIUS * QUAD), repeated(zero, 2 * RADIUS * QUAD)
    total = repeated(tl.zeros([GROUP, LANES], tl.float32), 4)
    for cell in range(cell_of(first - RADIUS, height, full_height), cell_of(end + RADIUS - 1, height, full_height) + 1):
        of_cell = logits_of_cell(logits, cell, columns, height, logits_y, RESIZED)
        above, below = rows_of(cell, first - RADIUS, end + RADIUS, height, full_height)
        for row in range(above, below):
            chances += _chances(of_cell, cell, largest, scales, row, first_quad, height, full_height, full_width)
            lows += _least_along_x(chances[RADIUS * QUAD :], RADIUS)
            center = row - RADIUS
            kind = load_quads(kinds, center, first_quad, full_height, full_width, VOID)
            words = load_quads(near, center, first_quad, full_height, full_width, 0)
            for i in tl.static_range(QUAD):
                boundary = _boundary(chances[i], least(lows, i, 2 * RADIUS + 1, QUAD))
                boundary = tl.where(kind[i] >= INNER, boundary, 0.0)
                boundary = tl.where(kind[i] == NO_CLASS, float("nan"), boundary)  # it must not pass in silence
                true = kind[i] == c
                if center >= first:
                    close, found = tl.where(words[i] & bit != 0, boundary, 0.0), tl.where(true, boundary, 0.0)
                    total = add_tuples(total, (boundary, close, found, true.to(tl.float32)))
            chances, lows = chances[QUAD:], lows[QUAD:]
    sums += tl.program_id(0) // tl.cdiv(classes, GROUP) + c * tl.cast(programs, tl.int64)
    owned = in_strip(tl.arange(0, LANES)[None, :], RADIUS)
    for i in tl.static_range(4):
        added = tl.sum(tl.where(owned, total[i], 0.0), 1)[:, None]
        tl.store(sums + i * classes * tl.cast(programs, tl.int64), added, c < classes)


@triton.jit
def _least_along_x(values, RADIUS: tl.constexpr):
    """The least within the radius of each column of the quads."""
    beside, result = with_neighbors(values, RADIUS), ()
    for i in tl.static_range(QUAD):
        result += (least(beside, i, 2 * RADIUS + 1, 1),)
    return result


@triton.jit
def _chances(of_cell, cell, largest, scales, row, first_quad, height, full_height, full_width):
    """The probabilities of a row of a cell, by their bits; infinite, so never the least, where there are no pixels.

    These whole numbers have the order of the probabilities, and NaN is the least of them.
    """
    upper, change = of_cell
    share = share_of_second(row, cell, height, full_height)
    most = load_quads(largest, row, first_quad, full_height, full_width, float("-inf"))
    scale, result = load_quads(scales, row, first_quad, full_height, full_width, 1.0), ()
    for i in tl.static_range(QUAD):
        chance = exp(upper[i] + share * change[i] - most[i]) * scale[i]
        result += (tl.where(chance == chance, chance.to(tl.int32, bitcast=True), -1),)
    return result


@triton.jit
def _boundary(chance, lowest):
    return chance.to(tl.float32, bitcast=True) - lowest.to(tl.float32, bitcast=True)


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
# pixel with the least of that row lead there.
@triton.jit(do_not_specialize=("first", *VARYING))
def _boundary_f1_loss_backward(
    logits,  # [N, C, h, w]
    kinds,  # [N, H, padded W]
    near,  # [N, words, H, padded W]
    largest,  # [N, H, padded W]
    scales,  # [N, H, padded W]
    slopes,  # [3, C]
    band,  # [N, C, rows, padded W]: of the probabilities of the rows from ``first`` on
    classes, height, width, full_height, full_width, first, rows, band_rows, blocks_y, blocks_x,
    logits_n, logits_c, logits_y, logits_x, RADIUS: tl.constexpr, RESIZED: tl.constexpr,
):  # fmt: skip
    n, start, first_class, first_quad = strip_of_image(first, blocks_y, blocks_x, classes, 2 * RADIUS)
    size = full_height * row_size(full_width)
    c = first_class + tl.arange(0, GROUP)[:, None]
    known_c = tl.minimum(c, classes - 1)
    logits += n * logits_n + classes_of(first_class, classes).to(tl.int64) * logits_c
    kinds += n * size
    largest += n * size
    scales += n * size
    near += (n * ((classes + 31) // 32) + first_class // 32) * size
    band += n * classes * band_rows * row_size(full_width)
    by_predicted, by_precise, by_recalled = (
        tl.load(slopes + known_c), tl.load(slopes + classes + known_c), tl.load(slopes + 2 * classes + known_c)
    )  # fmt: skip
    bit = 1 << known_c % 32
    columns = columns_of(first_quad, width, full_width, logits_x)
    end = tl.minimum(start + SEGMENT, first + rows)

    # Of the last rows: the derivatives by b; the probabilities, the least of them along x, and the gradient of that.
    empty, zero = tl.zeros([GROUP, LANES], tl.float32), tl.zeros([GROUP, LANES], tl.int32)
    gradients, sent = repeated(empty, RADIUS * QUAD), repeated(empty, 2 * RADIUS * QUAD)
    chances, lows = repeated(zero, 2 * RADIUS * QUAD), repeated(zero, 2 * RADIUS * QUAD)
    top, bottom = start - 2 * RADIUS, end + 2 * RADIUS
    for cell in range(cell_of(top, height, full_height), cell_of(bottom - 1, height, full_height) + 1):
        of_cell = logits_of_cell(logits, cell, columns, height, logits_y, RESIZED)
        above, below = rows_of(cell, top, bottom, height, full_height)
        for row in range(above, below):
            chances += _chances(of_cell, cell, largest, scales, row, first_quad, height, full_height, full_width)
            lows += _least_along_x(chances[2 * RADIUS * QUAD :], RADIUS)
            center, now = row - RADIUS, ()
            kind = load_quads(kinds, center, first_quad, full_height, full_width, VOID)
            words = load_quads(near, center, first_quad, full_height, full_width, 0)
            for i in tl.static_range(QUAD):
                slope = by_predicted + tl.where(words[i] & bit != 0, by_precise, 0.0)
                slope += tl.where(kind[i] == c, by_recalled, 0.0)
                now += (tl.where(kind[i] >= INNER, slope, 0.0),)
            gradients += now
            sent = _send_along_y(now, lows, sent + repeated(empty, QUAD), RADIUS)
            received, grad = _send_along_x(sent[:QUAD], chances[:QUAD], lows[:QUAD], RADIUS), ()
            for i in tl.static_range(QUAD):
                grad += (gradients[i] - received[i],)
            done = row - 2 * RADIUS
            if done >= start:
                store_quads(
                    band, band_rows, classes, first_class, done - first, first_quad, full_width, grad, 2 * RADIUS
                )
            gradients, chances, lows, sent = gradients[QUAD:], chances[QUAD:], lows[QUAD:], sent[QUAD:]


@triton.jit
def _send_along_y(grad, lows, sent, RADIUS: tl.constexpr):
    """Adds the gradient of a row to what is sent to the first row of its window that has the least."""
    rest, lowest, result = grad, (), ()
    for i in tl.static_range(QUAD):
        lowest += (least(lows, i, 2 * RADIUS + 1, QUAD),)
    for j in tl.static_range(2 * RADIUS + 1):
        still = ()
        for i in tl.static_range(QUAD):
            first = lows[j * QUAD + i] == lowest[i]
            received = tl.where(first, rest[i], 0.0)
            result += (sent[j * QUAD + i] + received,)
            still += (rest[i] - received,)
        rest = still
    return result


@triton.jit
def _send_along_x(grad, chances, lows, RADIUS: tl.constexpr):
    """Sends the gradient of a row's least to the first column of the window that has it."""
    beside = with_neighbors(chances, RADIUS)
    received = repeated(tl.zeros(grad[0].shape, tl.float32), QUAD + 2 * RADIUS)
    for i in tl.static_range(QUAD):
        rest, added = grad[i], ()
        for j in tl.static_range(QUAD + 2 * RADIUS):
            if (j >= i) and (j <= i + 2 * RADIUS):
                part = tl.where(beside[j] == lows[i], rest, 0.0)
                added += (received[j] + part,)
                rest -= part
            else:
                added += (received[j],)
        received = added
    return sum_with_neighbors(received, RADIUS)


# With g_c the derivative by a pixel's p_c, that by its logit z_c is p_c (g_c - sum_k p_k g_k).
@triton.jit(do_not_specialize=("first", "first_block", *VARYING))
def _add_gradient_of_band(
    logits,  # [N, C, h, w]
    kinds,  # [N, H, padded W]
    largest,  # [N, H, padded W]
    scales,  # [N, H, padded W]
    band,  # [N, C, rows, padded W]: of the probabilities of the rows from ``first`` on
    grad,  # [N, C, h, w]: of the logits
    classes, height, width, full_height, full_width, first, rows, band_rows, first_block, blocks_y, blocks_x,
    parts_y, parts_x, logits_n, logits_c, logits_y, logits_x, grad_n, grad_c, grad_y, grad_x,
    KY: tl.constexpr, KX: tl.constexpr, RESIZED: tl.constexpr,
):  # fmt: skip
    """Add to the gradient what this band of rows sends to it; the blocks are those that the band touches."""
    program = tl.program_id(0)
    n = (program // (blocks_y * blocks_x)).to(tl.int64)
    cell_y, cell_x = cells(first_block + program // blocks_x % blocks_y, program % blocks_x)
    corners = corner_offsets(cell_y, cell_x, height, width, logits_y, logits_x)
    owned = owns_pixel(cell_y, cell_x, height, width)
    size = full_height * row_size(full_width)
    class_size = tl.cast(band_rows, tl.int64) * row_size(full_width)
    for part_y in range(parts_y):
        y, share_y, inside_y = full_positions(cell_y, part_y, height, full_height, KY)
        inside_y = inside_y & (y >= first) & (y < first + rows)
        for part_x in range(parts_x):
            x, share_x, inside_x = full_positions(cell_x, part_x, width, full_width, KX)
            inside = inside_y[:, None, :] & inside_x[None, :, :]
            place = (y * row_size(full_width))[:, None, :] + x[None, :, :]
            inside = inside & (gather(kinds + n * size, place, inside) != VOID)
            most = gather(largest + n * size, place, inside)
            in_band = place - first * row_size(full_width)
            channel, by_chance = logits + n * logits_n, band + n * classes * class_size
            dot = tl.zeros(place.shape, tl.float32)
            for _ in range(classes):
                weight = exp(upsample(channel, corners, share_y, share_x, RESIZED) - most)
                dot += weight * gather(by_chance, in_band, inside)
                channel += logits_c
                by_chance += class_size
            scale = gather(scales + n * size, place, inside)
            dot *= scale
            channel, by_chance = logits + n * logits_n, band + n * classes * class_size
            received = grad + n * grad_n + (cell_y * grad_y + cell_x * grad_x)
            for _ in range(classes):
                chance = exp(upsample(channel, corners, share_y, share_x, RESIZED) - most) * scale
                grad_full = tl.where(inside, chance * (gather(by_chance, in_band, inside) - dot), 0.0)
                sent = upsample_backward(grad_full, share_y, share_x, RESIZED)
                tl.store(received, tl.load(received, owned, 0) + sent, owned)
                channel += logits_c
                by_chance += class_size
                received += grad_c
