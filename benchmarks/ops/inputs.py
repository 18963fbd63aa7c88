"""The ops are measured on these sizes, labels and logits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from benchmarks.common.machine import ON_GPU
from inverseform_fast.bench import street

DEVICE = torch.device("cuda" if ON_GPU else "cpu")
BATCH, HEIGHT, WIDTH = (8, 1024, 2048) if ON_GPU else (2, 128, 256)
CLASSES = 19


@cache
def street_labels(dtype: torch.dtype, images: int | None = None) -> Tensor:
    labels = street.street_labels(images or BATCH, (HEIGHT, WIDTH), CLASSES, torch.Generator().manual_seed(0))
    return labels.to(DEVICE, dtype)


def logits(dtype: torch.dtype) -> Tensor:
    """Draw class logits at a quarter of the labels' resolution; they tend to agree with the labels."""
    classes = torch.arange(CLASSES, device=DEVICE)[:, None, None]
    right = street_labels(torch.uint8)[:, None, 2::4, 2::4] == classes
    return (noise(right.shape) + 4 * right).to(dtype).requires_grad_()


def boundary_logits(dtype: torch.dtype) -> Tensor:
    """Draw random boundary logits at a quarter of the labels' resolution."""
    return noise((BATCH, 1, HEIGHT // 4, WIDTH // 4)).to(dtype).requires_grad_()


def noise(shape: Sequence[int]) -> Tensor:
    """Draw random numbers, the same each time."""
    return torch.randn(shape, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(1))
