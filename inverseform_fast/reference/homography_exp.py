"""homography_exp, plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..constants import constant
from ..sl3 import basis


def homography_exp(a: Tensor) -> Tensor:
    """See :func:`inverseform_fast.functional.homography_exp`."""
    rows = a.double().reshape(-1, 8)
    small = (rows @ constant(basis, torch.float64, a.device).flatten(1)).unflatten(1, (3, 3)) / 32
    eye = torch.eye(3, dtype=torch.float64, device=a.device).expand_as(small)
    series = eye
    for order in range(8, 1, -1):
        series = torch.baddbmm(eye, small, series, alpha=1 / order)
    minus_one = small @ series
    for _ in range(5):
        minus_one = torch.baddbmm(minus_one, minus_one, minus_one, beta=2)
    return (eye + minus_one).to(a.dtype).view(*a.shape[:-1], 3, 3)
