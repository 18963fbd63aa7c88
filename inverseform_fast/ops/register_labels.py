"""register_labels: its op, and the choice of an implementation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..reference.register_labels import cell_probabilities
from ..tiling import tiles
from .backend import Op
from .library import EXTENSION, differentiate, kernel, kernel_op


@kernel_op
def _register_labels(
    probabilities: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    ignore_index: int,
) -> Tensor:  # [N, rows, columns, 8]
    return probabilities.new_empty(len(probabilities), *tiles(labels), 8, dtype=torch.float32)


@kernel(_register_labels, "CPU")
def _(probabilities: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    return EXTENSION.register_labels_cpu.default(probabilities, labels, ignore_index, *tiles(labels))


def _constant(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.mark_non_differentiable(output)


differentiate(_register_labels, lambda ctx, grad: (None, None, None), _constant)


def _register(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    return _register_labels(cell_probabilities(logits, tiles(labels)), labels, ignore_index)


register_labels = Op(reference.register_labels, cpu=_register, triton=_register)
