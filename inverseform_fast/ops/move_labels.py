"""move_labels: its op, and the choice of an implementation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from .backend import Op
from .library import EXTENSION, differentiate, kernel, kernel_op


@kernel_op
def _move_labels(
    motion: Tensor,  # [N, rows, columns, 8]
    labels: Tensor,  # [N, H, W]
    ignore_index: int,
) -> tuple[Tensor, Tensor]:  # [N, H, W], [N, 2, H, W]
    n, height, width = labels.shape
    moved = torch.empty(labels.shape, dtype=labels.dtype, device=labels.device)
    return moved, motion.new_empty(n, 2, height, width, dtype=torch.float32)


@kernel(_move_labels, "CPU")
def _(motion: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    moved, displacement = EXTENSION.move_labels_cpu.default(motion, labels, ignore_index)
    return moved.to(labels.dtype), displacement


def _constant(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output)


differentiate(_move_labels, lambda ctx, *grads: (None, None, None), _constant)


move_labels = Op(reference.move_labels, cpu=_move_labels, triton=_move_labels)
