"""dice_loss: a pass over the pixels for each class's sums, and one for the gradient, which makes the softmax again.

The gradient cannot be made with the sums, as that of :mod:`.segmentation_loss` is: a pixel's gradient depends on the
sums of all pixels, and by products of its C probabilities with C numbers that are known only at the end. A thread owns
a cell (see :mod:`.resize`), and each pass over the pixels passes three times over the classes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementary import divide, exp
from .layout import empty_gradient
from .memory import VARYING, plane_strides
from .resize import (
    cells,
    corner_offsets,
    cut_into_cells,
    full_positions,
    owns_full_pixels,
    owns_pixel,
    part_of_image,
    sum_parts,
    total,
    upsample,
    upsample_backward,
)
from .softmax import UNKNOWN, VOID, labels_at, largest_and_chosen, sum_of_exponentials, totals_of_classes


def dice_loss(
    logits: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    ignore_index: int,
    sums: Tensor | None,  # [3, C], float64; None: their own
) -> tuple[Tensor, Tensor]:
    """The loss, and its slopes ``[2, C]``: see :func:`_mean_of_classes`."""
    totals = dice_sums(logits, labels, ignore_index) if sums is None else sums
    classes = logits.shape[1]
    loss, slopes = (logits.new_empty(shape, dtype=torch.float32) for shape in ((), (2, classes)))
    _mean_of_classes[(1,)](totals, loss, slopes, classes, CLASSES=triton.next_power_of_2(classes))
    return loss, slopes


def dice_sums(
    logits: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    ignore_index: int,
) -> Tensor:
    """Each class's sums over the pixels, ``[3, C]``, float64: see :func:`_mean_of_classes`."""
    n, classes, *size = logits.shape
    full = labels.shape[-2:]
    cut = cut_into_cells(size, full)
    programs = n * cut.programs
    sums = logits.new_empty(3, classes, programs, dtype=torch.float32)
    if n:
        _sums_of_classes[(programs,)](
            logits, labels, sums, programs, classes, *size, *full, *cut.blocks, *cut.parts_yx,
            *logits.stride()[:2], *plane_strides(logits), labels.stride(0), *plane_strides(labels),
            ignore_index, KY=cut.k[0], KX=cut.k[1], RESIZED=cut.resized, num_warps=cut.warps, maxnreg=128,
        )  # fmt: skip
    return totals_of_classes(sums)


def dice_loss_backward(
    logits: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    slopes: Tensor,  # [2, C], times the gradient of the loss
    ignore_index: int,
) -> Tensor:
    """``[N, C, h, w]``: the gradient of the logits."""
    n, classes, *size = logits.shape
    full = labels.shape[-2:]
    cut = cut_into_cells(size, full)
    grad_logits = empty_gradient(logits, cut.parts)
    if n:
        _dice_loss_backward[(n * cut.programs,)](
            logits, labels, slopes, grad_logits, n, classes, *size, *full, *cut.blocks, *cut.parts_yx,
            *logits.stride()[:2], *plane_strides(logits), labels.stride(0), *plane_strides(labels),
            *grad_logits.stride()[:2], *plane_strides(grad_logits),
            ignore_index, KY=cut.k[0], KX=cut.k[1], RESIZED=cut.resized, num_warps=cut.warps, maxnreg=128,
        )  # fmt: skip
    return sum_parts(grad_logits, cut.parts).to(logits.dtype)


@triton.jit(do_not_specialize=VARYING)
def _sums_of_classes(
    logits,  # [N, C, h, w]
    labels,  # [N, H, W]
    sums,  # [3, C, programs]: of p y, of p and of y, where p is the softmax and y the one-hot label
    programs, classes, height, width, full_height, full_width, blocks_y, blocks_x, parts_y, parts_x,
    logits_n, logits_c, logits_y, logits_x, labels_n, labels_y, labels_x,
    ignore_index, KY: tl.constexpr, KX: tl.constexpr, RESIZED: tl.constexpr,
):  # fmt: skip
    n, part_y, part_x, block_y, block_x = part_of_image(blocks_y, blocks_x, parts_y, parts_x)
    cell_y, cell_x = cells(block_y, block_x)
    y, share_y, inside_y = full_positions(cell_y, part_y, height, full_height, KY)
    x, share_x, inside_x = full_positions(cell_x, part_x, width, full_width, KX)
    corners = corner_offsets(cell_y, cell_x, height, width, logits_y, logits_x)
    counted = inside_x & owns_full_pixels(cell_y, cell_x)[None, :]
    labels += n * labels_n
    label = labels_at(labels, y, x, inside_y, counted, labels_y, labels_x, classes, ignore_index)

    channel = logits + n * logits_n
    largest, _ = largest_and_chosen(channel, logits_c, classes, label, corners, share_y, share_x, RESIZED)
    largest = tl.where(label == UNKNOWN, float("nan"), largest)  # such a label must not pass in silence
    scale = divide(1.0, sum_of_exponentials(channel, logits_c, classes, largest, corners, share_y, share_x, RESIZED))
    step = tl.cast(programs, tl.int64)
    sums += tl.program_id(0)
    for c in range(classes):
        chance = exp(upsample(channel, corners, share_y, share_x, RESIZED) - largest) * scale
        chance = tl.where(label == VOID, 0.0, chance)
        mine = label == c
        tl.store(sums, total(tl.where(mine, chance, 0.0)))
        tl.store(sums + classes * step, total(chance))
        tl.store(sums + 2 * classes * step, total(mine.to(tl.float32)))
        channel += logits_c
        sums += step


@triton.jit
def _mean_of_classes(
    totals,  # [3, C]: I = sum p y, P = sum p and Y = sum y
    loss,  # []
    slopes,  # [2, C]
    classes, CLASSES: tl.constexpr,
):  # fmt: skip
    """The mean loss of K classes, and the derivatives by the probability of a pixel where y = 0, and where y = 1.

    A class has the loss ``1 - 2 I / D``, where ``D = P + Y``. So they are ``2 (I / D - y) / D / K``.
    """
    c = tl.arange(0, CLASSES)
    exists = c < classes
    both = tl.load(totals + c, exists, 0)
    predicted = tl.load(totals + classes + c, exists, 0)
    truth = tl.load(totals + 2 * classes + c, exists, 0)
    # A class that no pixel has is left out, unless its sum is NaN, which must not pass in silence.
    counts = exists & ((truth > 0) | (predicted != predicted))
    count = tl.maximum(tl.sum(counts.to(tl.float64), 0), 1.0)
    size = tl.where(counts, predicted + truth, 1.0)
    tl.store(loss, tl.sum(tl.where(counts, (size - 2 * both) / size, 0.0), 0) / count)
    tl.store(slopes + c, tl.where(counts, 2 * (both / size) / (size * count), 0.0), exists)
    tl.store(slopes + classes + c, tl.where(counts, 2 * (both / size - 1) / (size * count), 0.0), exists)


# With g_c the derivative by a pixel's p_c, that by its logit z_c is p_c (g_c - sum_k p_k g_k). Upsampling is linear, so
# its adjoint takes the gradient back to the logits that were given.
@triton.jit(do_not_specialize=VARYING)
def _dice_loss_backward(
    logits,  # [N, C, h, w]
    labels,  # [N, H, W]
    slopes,  # [2, C]
    grad_logits,  # [parts * N, C, h, w]
    batch, classes, height, width, full_height, full_width, blocks_y, blocks_x, parts_y, parts_x,
    logits_n, logits_c, logits_y, logits_x, labels_n, labels_y, labels_x,
    grad_n, grad_c, grad_y, grad_x,
    ignore_index, KY: tl.constexpr, KX: tl.constexpr, RESIZED: tl.constexpr,
):  # fmt: skip
    n, part_y, part_x, block_y, block_x = part_of_image(blocks_y, blocks_x, parts_y, parts_x)
    cell_y, cell_x = cells(block_y, block_x)
    y, share_y, inside_y = full_positions(cell_y, part_y, height, full_height, KY)
    x, share_x, inside_x = full_positions(cell_x, part_x, width, full_width, KX)
    corners = corner_offsets(cell_y, cell_x, height, width, logits_y, logits_x)
    labels += n * labels_n
    label = labels_at(labels, y, x, inside_y, inside_x, labels_y, labels_x, classes, ignore_index)

    channel = logits + n * logits_n
    largest, _ = largest_and_chosen(channel, logits_c, classes, label, corners, share_y, share_x, RESIZED)
    largest = tl.where(label == UNKNOWN, float("nan"), largest)  # such a label must not pass in silence
    sum_exp, dot = tl.zeros(label.shape, tl.float32), tl.zeros(label.shape, tl.float32)
    for c in range(classes):
        weight = exp(upsample(channel, corners, share_y, share_x, RESIZED) - largest)
        sum_exp += weight
        dot += weight * _slope(slopes, c, classes, label)
        channel += logits_c
    scale = divide(1.0, sum_exp)
    dot *= scale

    channel = logits + n * logits_n
    owned = owns_pixel(cell_y, cell_x, height, width)
    grad_logits += ((part_y * parts_x + part_x) * batch + n) * grad_n + (cell_y * grad_y + cell_x * grad_x)
    for c in range(classes):
        chance = exp(upsample(channel, corners, share_y, share_x, RESIZED) - largest) * scale
        grad_full = tl.where(label == VOID, 0.0, chance * (_slope(slopes, c, classes, label) - dot))
        tl.store(grad_logits, upsample_backward(grad_full, share_y, share_x, RESIZED), owned)
        channel += logits_c
        grad_logits += grad_c


@triton.jit
def _slope(slopes, c, classes, label):
    """The derivative of the loss by the probabilities of class c."""
    return tl.where(label == c, tl.load(slopes + classes + c), tl.load(slopes + c))
