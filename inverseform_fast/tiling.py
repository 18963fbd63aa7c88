"""Tiles of label maps, each of which overlaps half of the next one."""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 224  # pixels, about


def tiles(labels: Tensor) -> tuple[int, int]:
    """Rows and columns of tiles that cover ``labels (N, H, W)``."""
    rows, columns = (max(1, round(edge / TILE)) * 2 - 1 for edge in labels.shape[1:])
    return rows, columns


def tiles_to_image(dtype: torch.dtype, device: torch.device, rows: int, columns: int) -> Tensor:
    """``(rows * columns, 3, 3)``: from the coordinates of tiles to the image's."""
    maps = torch.zeros(rows, columns, 3, 3, dtype=torch.float64)
    maps[..., 0, 0], maps[..., 1, 1], maps[..., 2, 2] = 2 / (columns + 1), 2 / (rows + 1), 1
    maps[..., 0, 2] = (torch.arange(columns) + 1) * 2 / (columns + 1) - 1
    maps[..., 1, 2] = ((torch.arange(rows) + 1) * 2 / (rows + 1) - 1)[:, None]
    return maps.flatten(0, 1).to(device, dtype)
