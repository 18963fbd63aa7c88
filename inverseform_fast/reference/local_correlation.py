"""local_correlation, plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def local_correlation(first: Tensor, second: Tensor, reach: int = 3, groups: int = 1) -> Tensor:
    """See :func:`inverseform_fast.functional.local_correlation`."""
    height, width = first.shape[-2:]
    span = 2 * reach + 1
    rows = first.unflatten(1, (groups, -1)).permute(0, 1, 3, 4, 2) / (first.shape[1] // groups)
    others = F.pad(second, (reach, reach, reach, reach)).unflatten(1, (groups, -1)).permute(0, 1, 3, 2, 4)
    # A matrix product gives all pairs of a row: (its cells, cells of the other map's padded row). In the flattened
    # product, the pairs of cell i that are within reach begin at i * (width + span).
    bands = [(rows @ others[:, :, dy : dy + height]).flatten(3).unfold(3, span, width + span) for dy in range(span)]
    return torch.stack(bands, 2).permute(0, 1, 2, 5, 3, 4).flatten(1, 3)
