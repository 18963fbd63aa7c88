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
    if theta.ndim == 4:  # views of each image
        views = theta.shape[1]
        images = image[:, None].expand(-1, views, -1, -1, -1).flatten(0, 1)
        return homography_warp(images, theta.flatten(0, 1), size, mode, padding).unflatten(0, (-1, views))
    working = torch.promote_types(image.dtype, torch.float32)
    height, width = size or image.shape[-2:]
    theta = theta.to(torch.promote_types(theta.dtype, torch.float32))
    x, y = _pixel_centres(width, theta)[:, None], _pixel_centres(height, theta)[:, None, None]
    # This is written term by term, because a matmul would round the coordinates, under autocast and to TF32.
    x_axis, y_axis, origin = theta[:, None, None].unbind(-1)
    source = x_axis * x + y_axis * y + origin
    depth = source[..., 2:]
    behind = depth <= torch.finfo(depth.dtype).eps
    grid = torch.where(behind, FAR, source[..., :2] / torch.where(behind, 1, depth)).clamp(-FAR, FAR)
    if padding == "border":
        grid = grid.nan_to_num(-FAR)  # otherwise torch 2.11 crashes in the gradient
    warped = F.grid_sample(image.to(working), grid.to(working), mode=mode, padding_mode=padding, align_corners=False)
    return warped.to(image.dtype)


def _pixel_centres(count: int, like: Tensor) -> Tensor:
    return (torch.arange(count, dtype=like.dtype, device=like.device) * 2 + 1) / count - 1
