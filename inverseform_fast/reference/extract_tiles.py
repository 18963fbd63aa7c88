"""extract_tiles, plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .boundary_map import VOID
from .segmentation_loss import upsample

VOID_SHARE = 1e-3  # of a result pixel; at 0, the rounding of sampling positions would decide


def extract_tiles(
    predicted: Tensor, target: Tensor, size: Sequence[int], tile: int = 224, activation: str | None = "sigmoid"
) -> tuple[Tensor, Tensor]:
    """See :func:`inverseform_fast.functional.extract_tiles`."""
    predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
    if activation == "sigmoid":
        predicted = predicted.sigmoid()
    void = target == VOID
    # A pixel that void pixels contribute to is void on both sides, so that nothing unlabelled is compared.
    valid = upsample(void.to(predicted.dtype), size) < VOID_SHARE
    boundary = upsample((target == 1).to(predicted.dtype), size)
    return _cut(torch.where(valid, upsample(predicted, size), 0), tile), _cut(torch.where(valid, boundary, 0), tile)


def _cut(maps: Tensor, tile: int) -> Tensor:
    """``(N, 1, R * tile, C * tile)`` to ``(N * R * C, 1, tile, tile)``: image by image, row by row."""
    return maps.unflatten(3, (-1, tile)).unflatten(2, (-1, tile)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
