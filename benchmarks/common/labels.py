"""Labels that are moved by a field of displacements."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

VOID = 255


def read_at(labels: Tensor, displacement: Tensor) -> Tensor:
    """The label of each pixel's displaced place, to the nearest pixel; void outside the image.

    Labels are (N, H, W), and the displacement (N, 2, H, W) is (x, y) in pixels.
    """
    read = F.grid_sample(labels[:, None] + 1.0, _grid(displacement), mode="nearest", align_corners=False)[:, 0]
    return torch.where(read == 0, VOID, read - 1).to(labels.dtype)


def composed(first: Tensor, second: Tensor) -> Tensor:
    """The displacement (N, 2, H, W) of labels that were read at ``first``, and then read again at ``second``."""
    return second + F.grid_sample(first, _grid(second), padding_mode="border", align_corners=False)


def _grid(displacement: Tensor) -> Tensor:
    n, _, height, width = displacement.shape
    here = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), [n, 1, height, width], align_corners=False)
    return here + displacement.movedim(1, -1) * torch.tensor([2 / width, 2 / height])
