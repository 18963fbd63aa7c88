"""What the losses of logits and labels share: the labels of full pixels, and the softmax of upsampled logits.

Values of full pixels are ``[KY, KX, cells]`` (see :mod:`.resize`). The logits of a class are upsampled again in each
pass over the classes, so they live in registers only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementary import exp
from .memory import VARYING, gather
from .resize import LOWEST, column_total, upsample

VOID, UNKNOWN = tl.constexpr(-1), tl.constexpr(-2)  # stand for a void label, and for one that is no class


def totals_of_classes(
    sums: Tensor,  # [K, C, programs]
) -> Tensor:
    """``[K, C]``, float64: the sums of all programs."""
    totals = sums.new_empty(sums.shape[:2], dtype=torch.float64)
    _totals_of_classes[(totals.numel(),)](sums, totals, sums.shape[2])
    return totals


@triton.jit
def labels_at(labels, y, x, inside_y, inside_x, labels_y, labels_x, classes, ignore_index):
    """The classes (int32) of full pixels, or VOID or UNKNOWN; VOID, too, where there is no pixel."""
    inside = inside_y[:, None, :] & inside_x[None, :, :]
    label = gather(labels, (y * labels_y)[:, None, :] + (x * labels_x)[None, :, :], inside).to(tl.int64)
    valid = inside & (label != ignore_index)
    known = (label >= 0) & (label < classes)
    return tl.where(valid, tl.where(known, label, UNKNOWN), VOID).to(tl.int32)


@triton.jit
def largest_and_chosen(channel, stride, classes, label, corners, share_y, share_x, RESIZED: tl.constexpr):
    """The largest logit of each full pixel, and that of its label; NaN where all classes are impossible."""
    largest = tl.full(label.shape, float("-inf"), tl.float32)
    chosen = tl.zeros(label.shape, tl.float32)
    for c in range(classes):
        logit = upsample(channel, corners, share_y, share_x, RESIZED)
        largest = tl.maximum(largest, logit)
        chosen = tl.where(label == c, logit, chosen)
        channel += stride
    largest = tl.where(largest == LOWEST, float("nan"), largest)
    return largest, tl.where(chosen == LOWEST, float("-inf"), chosen)


@triton.jit
def sum_of_exponentials(channel, stride, classes, largest, corners, share_y, share_x, RESIZED: tl.constexpr):
    """``sum_c e^(logit_c - largest)`` of each full pixel."""
    added = tl.zeros(largest.shape, tl.float32)
    for _ in range(classes):
        added += exp(upsample(channel, corners, share_y, share_x, RESIZED) - largest)
        channel += stride
    return added


@triton.jit(do_not_specialize=VARYING)
def _totals_of_classes(
    sums,  # [K, C, programs]
    totals,  # [K, C]
    programs,
):
    row = tl.program_id(0)
    tl.store(totals + row, column_total(sums + row.to(tl.int64) * programs, 0, 1, programs))
