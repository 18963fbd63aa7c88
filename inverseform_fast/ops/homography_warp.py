"""homography_warp: its ops, their gradients, and the choice of an implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import reference
from .backend import Op
from .library import backward_op, differentiate, kernel_op


@kernel_op
def _homography_warp(
    image: Tensor,  # [N, C, H, W]
    theta: Tensor,  # [N, T, 3, 3]
    size: list[int],  # H', W'
    nearest: bool,
    border: bool,
) -> Tensor:  # [N, T, C, H', W']
    return image.new_empty(*theta.shape[:2], image.shape[1], *size)


@backward_op
def _homography_warp_backward(
    grad: Tensor,  # [N, T, C, H', W']
    image: Tensor,  # [N, C, H, W]
    theta: Tensor,  # [N, T, 3, 3]
    nearest: bool,
    border: bool,
    wants_image: bool,
    wants_theta: bool,
) -> tuple[Tensor, Tensor]:  # [N, C, H, W], [N, T, 3, 3]
    """Gradients of image and theta, empty where not wanted."""
    return image.new_empty(image.shape if wants_image else (0,)), theta.new_empty(theta.shape if wants_theta else (0,))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, theta, _, ctx.nearest, ctx.border = inputs
    ctx.save_for_backward(image, theta)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    image, theta = ctx.saved_tensors
    wants_image, wants_theta = ctx.needs_input_grad[:2]
    grad_image, grad_theta = _homography_warp_backward(
        grad, image, theta, ctx.nearest, ctx.border, wants_image, wants_theta
    )
    return grad_image if wants_image else None, grad_theta if wants_theta else None, None, None, None


differentiate(_homography_warp, _backward, _save)


def _warp(image: Tensor, theta: Tensor, size: Sequence[int] | None, mode: str, padding: str) -> Tensor:
    views = theta if theta.ndim == 4 else theta[:, None]
    result = _homography_warp(image, views, list(size or image.shape[-2:]), mode == "nearest", padding == "border")
    return result if theta.ndim == 4 else result[:, 0]


homography_warp = Op(reference.homography_warp, cpu=_warp, triton=_warp)
