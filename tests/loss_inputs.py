"""Labels and logits that the losses are tested on."""

from __future__ import annotations

import torch
from torch import Tensor

from inverseform_fast.functional import boundary_map


def scene(batch: int = 2, height: int = 96, width: int = 128) -> Tensor:
    """Makes labels with straight and curved outlines and a void corner."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    labels = torch.zeros(batch, height, width, dtype=torch.int64)
    for index in range(batch):
        labels[index][(x > 40 + 10 * index) & (y > 30)] = 1
        labels[index][(x - 80) ** 2 + (y - 50) ** 2 < 400] = 2
        labels[index, -8:, :8] = 255
    return labels


def random_logits(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).requires_grad_()


def target_of(labels: Tensor) -> Tensor:
    return boundary_map(labels)[:, None]
