"""segmentation_loss: upsampling, cross-entropy and the gradient of the low-resolution logits in one kernel.

A thread owns a cell (see :mod:`.resize`) and passes three times over the classes: it finds the largest logit of each
full pixel, then the sum of exponentials, then the gradient. The full-resolution logits live in registers only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementary import exp, log
from .layout import empty_gradient
from .memory import VARYING, gather, plane_strides
from .resize import (
    SCALE,
    cells,
    column_total,
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
from .softmax import UNKNOWN, labels_at, largest_and_chosen, sum_of_exponentials


def segmentation_loss(
    logits: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    class_weights: Tensor | None,  # [C]
    ignore_index: int,
    wants_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the sum of the pixels' weights, and the gradient of their product.

    The gradient is float32 ``[N, C, h, w]`` in the logits' layout, or empty where it is not wanted.
    """
    n, classes, *size = logits.shape
    full = labels.shape[-2:]
    cut = cut_into_cells(size, full)
    grad_logits = empty_gradient(logits, cut.parts if wants_grad else 0)
    sums = logits.new_empty(n * cut.programs, 2, dtype=torch.float32)
    loss, weight = (logits.new_empty((), dtype=torch.float32) for _ in range(2))
    if n:
        _segmentation_loss[(n * cut.programs,)](
            logits, labels, class_weights, grad_logits, sums,
            n, classes, *size, *full, *cut.blocks, *cut.parts_yx,
            *logits.stride()[:2], *plane_strides(logits), labels.stride(0), *plane_strides(labels),
            *grad_logits.stride()[:2], *plane_strides(grad_logits),
            ignore_index, KY=cut.k[0], KX=cut.k[1], RESIZED=cut.resized, WANTS_GRAD=wants_grad,
            num_warps=cut.warps, maxnreg=128,  # so that two programs fit on a multiprocessor
        )  # fmt: skip
    _mean_loss[(1,)](sums, loss, weight, n * cut.programs)
    return loss, weight, sum_parts(grad_logits, cut.parts) if wants_grad else grad_logits


@triton.jit(do_not_specialize=VARYING)
def _segmentation_loss(
    logits,  # [N, C, h, w]
    labels,  # [N, H, W]
    class_weights,  # [C], or None
    grad_logits,  # [parts * N, C, h, w]: of the sum of weighted losses, by the logits
    sums,  # [programs, 2]: of weighted losses, times SCALE, and of weights
    batch, classes, height, width, full_height, full_width, blocks_y, blocks_x, parts_y, parts_x,
    logits_n, logits_c, logits_y, logits_x, labels_n, labels_y, labels_x,
    grad_n, grad_c, grad_y, grad_x,
    ignore_index, KY: tl.constexpr, KX: tl.constexpr, RESIZED: tl.constexpr, WANTS_GRAD: tl.constexpr,
):  # fmt: skip
    n, part_y, part_x, block_y, block_x = part_of_image(blocks_y, blocks_x, parts_y, parts_x)
    cell_y, cell_x = cells(block_y, block_x)
    y, share_y, inside_y = full_positions(cell_y, part_y, height, full_height, KY)
    x, share_x, inside_x = full_positions(cell_x, part_x, width, full_width, KX)
    corners = corner_offsets(cell_y, cell_x, height, width, logits_y, logits_x)

    labels += n * labels_n
    label = labels_at(labels, y, x, inside_y, inside_x, labels_y, labels_x, classes, ignore_index)

    channel = logits + n * logits_n
    largest, chosen = largest_and_chosen(channel, logits_c, classes, label, corners, share_y, share_x, RESIZED)
    sum_exp = sum_of_exponentials(channel, logits_c, classes, largest, corners, share_y, share_x, RESIZED)
    log_sum = log(sum_exp)
    if class_weights is None:
        weight = (label >= 0).to(tl.float32)
    else:
        weight = gather(class_weights, label, label >= 0).to(tl.float32)
    weight = tl.where(label == UNKNOWN, float("nan"), weight)  # A label that is no class must not pass in silence.
    counted = (weight != 0) & owns_full_pixels(cell_y, cell_x)[None, None, :]
    loss = tl.where(counted, weight * SCALE * (log_sum - (chosen - largest)), 0.0)
    sums += tl.program_id(0) * 2
    tl.store(sums, total(loss))
    tl.store(sums + 1, total(tl.where(counted, weight, 0.0)))
    if not WANTS_GRAD:
        return

    # A full pixel's loss is weight * (log sum_k e^z_k - z_label). Its derivative by the pixel's logit z_c is
    # weight * (softmax_c - [c = label]): softmax minus one-hot. Upsampling is linear, so its adjoint takes the gradient
    # back to the logits that were given.
    owned = owns_pixel(cell_y, cell_x, height, width)
    grad_logits += ((part_y * parts_x + part_x) * batch + n) * grad_n + (cell_y * grad_y + cell_x * grad_x)
    for c in range(classes):
        log_probability = upsample(channel, corners, share_y, share_x, RESIZED) - largest - log_sum
        grad_full = weight * (exp(log_probability) - (label == c).to(tl.float32))
        grad_full = tl.where(weight == 0, 0.0, grad_full)  # void counts for nothing, whatever its logits
        tl.store(grad_logits, upsample_backward(grad_full, share_y, share_x, RESIZED), owned)
        channel += logits_c
        grad_logits += grad_c


@triton.jit(do_not_specialize=VARYING)
def _mean_loss(
    sums,  # [programs, 2]
    loss,  # []
    weight,  # []
    programs,
):
    total_weight = column_total(sums, 1, 2, programs)
    total_weight = tl.where(total_weight == 0, 1.0, total_weight)  # With no valid pixel the loss is 0.
    tl.store(loss, column_total(sums, 0, 2, programs) / SCALE / total_weight)
    tl.store(weight, total_weight)
