"""homography_warp, plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

FAR = 1e4  # half images: outside every image, yet safe to turn into a pixel index


def homography_warp(
    image: Tensor,
    theta: Tensor,
    size: Sequence[int] | None = None,
    mode: str = "bilinear",
    padding: str = "zeros",
) -> Tensor:
    """See :func:`inverseform_fast.functional.homography_warp`."""
    working = torch.promote_types(image.dtype, torch.float32)
    height, width = size or image.shape[-2:]
    x, y = _pixel_centres(width, theta), _pixel_centres(height, theta)
    y, x = torch.meshgrid(y, x, indexing="ij")
    points = torch.stack((x, y, torch.ones_like(x)), -1).flatten(0, 1)
    source = points @ theta.mT
    depth = source[..., 2:]
    behind = depth <= torch.finfo(depth.dtype).eps
    grid = torch.where(behind, FAR, source[..., :2] / torch.where(behind, 1, depth)).clamp(-FAR, FAR)
    grid = grid.unflatten(1, (height, width)).to(working)
    warped = F.grid_sample(image.to(working), grid, mode=mode, padding_mode=padding, align_corners=False)
    return warped.to(image.dtype)


def _pixel_centres(count: int, like: Tensor) -> Tensor:
    return (torch.arange(count, dtype=like.dtype, device=like.device) * 2 + 1) / count - 1
