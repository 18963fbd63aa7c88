"""boundary_loss: upsampling, balanced binary cross-entropy and the gradient of the low-resolution logits in one kernel.

The weights of positive and negative pixels are known only when all pixels are counted. So the kernel keeps the sums of
losses, pixels and gradients of the two kinds apart. A thread owns a cell (see :mod:`.resize`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .boundary_map import boundary_map
from .elementary import sigmoids
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
    total,
    upsample,
    upsample_backward,
)


def boundary_loss(
    boundary_logits: Tensor,  # [N, 1, h, w]
    labels: Tensor,  # [N, H, W]
    radius: int,
    ignore_index: int,
    counts: Tensor | None,  # [2], float64: of positive and negative pixels; None: their own
    wants_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the weights ``[2]`` of positive and negative pixels, and the gradients of their summed losses.

    The gradients are float32 ``[2, N, 1, h, w]``, or empty where they are not wanted. Backward adds the two, each times
    its weight.
    """
    n, _, *size = boundary_logits.shape
    full = labels.shape[-2:]
    cut = cut_into_cells(size, full)
    target = boundary_map(labels, radius, ignore_index, release=False)
    grad_logits = empty_gradient(boundary_logits, 2 * cut.parts if wants_grad else 0)
    sums = boundary_logits.new_empty(n * cut.programs, 4, dtype=torch.float32)
    loss, weights = (boundary_logits.new_empty(shape, dtype=torch.float32) for shape in ((), (2,)))
    if n:
        _boundary_loss[(n * cut.programs,)](
            boundary_logits, target, grad_logits, sums,
            n, *size, *full, *cut.blocks, *cut.parts_yx,
            boundary_logits.stride(0), *plane_strides(boundary_logits),
            grad_logits.stride(0), *plane_strides(grad_logits),
            KY=cut.k[0], KX=cut.k[1], RESIZED=cut.resized, WANTS_GRAD=wants_grad, num_warps=cut.warps,
        )  # fmt: skip
    _balanced_loss[(1,)](sums, counts, loss, weights, n * cut.programs)
    return loss, weights, grad_logits.unflatten(0, (2, cut.parts, -1)).sum(1) if wants_grad else grad_logits


@triton.jit(do_not_specialize=VARYING)
def _boundary_loss(
    logits,  # [N, 1, h, w]
    target,  # [N, H, W]
    grad_logits,  # [2 * parts * N, 1, h, w]: of the positive pixels' losses, then of the negative ones'
    sums,  # [programs, 4]: of positive and of negative losses, times SCALE; of positive and of negative pixels
    batch, height, width, full_height, full_width, blocks_y, blocks_x, parts_y, parts_x,
    logits_n, logits_y, logits_x, grad_n, grad_y, grad_x,
    KY: tl.constexpr, KX: tl.constexpr, RESIZED: tl.constexpr, WANTS_GRAD: tl.constexpr,
):  # fmt: skip
    n, part_y, part_x, block_y, block_x = part_of_image(blocks_y, blocks_x, parts_y, parts_x)
    cell_y, cell_x = cells(block_y, block_x)
    y, share_y, inside_y = full_positions(cell_y, part_y, height, full_height, KY)
    x, share_x, inside_x = full_positions(cell_x, part_x, width, full_width, KX)
    corners = corner_offsets(cell_y, cell_x, height, width, logits_y, logits_x)
    logit = upsample(logits + n * logits_n, corners, share_y, share_x, RESIZED)

    inside = inside_y[:, None, :] & inside_x[None, :, :]
    offsets = (y * full_width)[:, None, :] + x[None, :, :]
    kind = gather(target + n * full_height * full_width, offsets, inside)
    positive, negative = inside & (kind == 1), inside & (kind == 0)
    chance, doubt, log1p = sigmoids(logit)
    # A positive pixel's loss is -log s(z) and a negative one's -log s(-z), where s is the sigmoid. Their derivatives by
    # z are -s(-z) and s(z). The adjoint of upsampling takes them back to the logits that were given.
    if WANTS_GRAD:
        parts, part = parts_y * parts_x, part_y * parts_x + part_x
        owned = owns_pixel(cell_y, cell_x, height, width)
        grad_logits += cell_y * grad_y + cell_x * grad_x
        grad_positive = grad_logits + (part * batch + n) * grad_n
        grad_negative = grad_logits + ((parts + part) * batch + n) * grad_n
        positive_full, negative_full = tl.where(positive, -doubt, 0.0), tl.where(negative, chance, 0.0)
        tl.store(grad_positive, upsample_backward(positive_full, share_y, share_x, RESIZED), owned)
        tl.store(grad_negative, upsample_backward(negative_full, share_y, share_x, RESIZED), owned)

    counted = owns_full_pixels(cell_y, cell_x)[None, None, :]
    positive, negative = positive & counted, negative & counted
    sums += tl.program_id(0) * 4
    tl.store(sums, total(tl.where(positive, SCALE * (tl.maximum(-logit, 0.0) + log1p), 0.0)))
    tl.store(sums + 1, total(tl.where(negative, SCALE * (tl.maximum(logit, 0.0) + log1p), 0.0)))
    tl.store(sums + 2, total(positive.to(tl.float32)))
    tl.store(sums + 3, total(negative.to(tl.float32)))


@triton.jit(do_not_specialize=VARYING)
def _balanced_loss(
    sums,  # [programs, 4]
    counts,  # [2], or None
    loss,  # []
    weights,  # [2]
    programs,
):
    """The mean over valid pixels, where a positive pixel weighs as the share of negative ones, and vice versa."""
    if counts is None:
        positives, negatives = column_total(sums, 2, 4, programs), column_total(sums, 3, 4, programs)
    else:
        positives, negatives = tl.load(counts), tl.load(counts + 1)
    valid = tl.maximum(positives + negatives, 1.0)
    positive_weight, negative_weight = negatives / (valid * valid), positives / (valid * valid)
    # Where a weight is 0, the total may be infinite.
    positive_loss = tl.where(positive_weight == 0, 0.0, positive_weight * column_total(sums, 0, 4, programs))
    negative_loss = tl.where(negative_weight == 0, 0.0, negative_weight * column_total(sums, 1, 4, programs))
    tl.store(loss, (positive_loss + negative_loss) / SCALE)
    tl.store(weights, positive_weight)
    tl.store(weights + 1, negative_weight)
