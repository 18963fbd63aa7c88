"""homography_warp, plain PyTorch; F.grid_sample has no second derivatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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
    x, y = (
        _place(position, pixels, padding)
        for position, pixels in zip(grid.to(working).unbind(-1), (image.shape[3], image.shape[2]), strict=True)
    )
    return _read(image.to(working), x, y, mode).to(image.dtype)


def _place(position: Tensor, pixels: int, padding: str) -> Tensor:
    """Coordinates in [-1, 1] as pixels; with padding "border", those of the image's nearest point. NaN stays NaN."""
    place = ((position + 1) * pixels - 1) / 2
    if padding == "zeros":
        return place
    inside = (place > 0) & (place < pixels - 1)
    return torch.where(inside, place, place.detach().clamp(0, pixels - 1))


def _read(image: Tensor, x: Tensor, y: Tensor, mode: str) -> Tensor:
    """``image (N, C, H, W)`` at the places ``x, y (N, H', W')``, in pixels; 0 outside."""
    height, width = image.shape[2:]
    (left, right), (top, bottom) = (_neighbours(place, pixels, mode) for place, pixels in ((x, width), (y, height)))
    if mode == "nearest":
        return _pick(image, top, left) + 0 * (x + y).nan_to_num()[:, None]  # the places have the gradient 0, not none
    share_x, share_y = (x - left)[:, None], (y - top)[:, None]
    above = _pick(image, top, left) * (1 - share_x) + _pick(image, top, right) * share_x
    below = _pick(image, bottom, left) * (1 - share_x) + _pick(image, bottom, right) * share_x
    return above * (1 - share_y) + below * share_y


def _neighbours(place: Tensor, pixels: int, mode: str) -> tuple[Tensor, Tensor]:
    """The pixel before (or nearest to) each place, and the one after it; far away or NaN, both are outside."""
    near = place.detach().nan_to_num(-2).clamp(-2, pixels)
    first = (near.round() if mode == "nearest" else near.floor()).long()
    return first, first + 1


def _pick(image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """``image (N, C, H, W)`` at whole pixels ``(N, H', W')``; 0 outside."""
    height, width = image.shape[2:]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    index = index.flatten(1)[:, None].expand(-1, image.shape[1], -1)
    return image.flatten(2).gather(2, index).unflatten(2, row.shape[1:]).masked_fill(~inside[:, None], 0)


def _pixel_centres(count: int, like: Tensor) -> Tensor:
    return (torch.arange(count, dtype=like.dtype, device=like.device) * 2 + 1) / count - 1
