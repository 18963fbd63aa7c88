"""homography_warp: its implementations by backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .backend import Op, kernel_op, runs_on_cpu


@kernel_op
def _homography_warp(image: Tensor, theta: Tensor, size: list[int], nearest: bool, border: bool) -> Tensor:
    if runs_on_cpu(image):
        return torch.ops.inverseform_fast.homography_warp_cpu(image, theta, size, nearest, border)
    from ..kernels import homography_warp as kernel

    return kernel.homography_warp(image, theta, size, nearest, border)


@_homography_warp.register_fake
def _(image: Tensor, theta: Tensor, size: list[int], nearest: bool, border: bool) -> Tensor:
    return image.new_empty(*theta.shape[:2], image.shape[1], *size)


@kernel_op
def _homography_warp_backward(
    grad: Tensor, image: Tensor, theta: Tensor, nearest: bool, border: bool, of_image: bool, of_theta: bool
) -> tuple[Tensor, Tensor]:
    if runs_on_cpu(image):
        return torch.ops.inverseform_fast.homography_warp_backward_cpu(
            grad, image, theta, nearest, border, of_image, of_theta
        )
    from ..kernels import homography_warp as kernel

    return kernel.homography_warp_backward(grad, image, theta, nearest, border, of_image, of_theta)


@_homography_warp_backward.register_fake
def _(
    grad: Tensor, image: Tensor, theta: Tensor, nearest: bool, border: bool, of_image: bool, of_theta: bool
) -> tuple[Tensor, Tensor]:
    return image.new_empty(image.shape if of_image else (0,)), theta.new_empty(theta.shape if of_theta else (0,))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, theta, _, ctx.nearest, ctx.border = inputs
    ctx.save_for_backward(image, theta)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    of_image, of_theta = ctx.needs_input_grad[:2]
    grad_image, grad_theta = _homography_warp_backward(
        grad, *ctx.saved_tensors, ctx.nearest, ctx.border, of_image, of_theta
    )
    return grad_image if of_image else None, grad_theta if of_theta else None, None, None, None


_homography_warp.register_autograd(_backward, setup_context=_save)


def _fused(image: Tensor, theta: Tensor, size: Sequence[int] | None, mode: str, padding: str) -> Tensor:
    views = theta if theta.ndim == 4 else theta[:, None]
    result = _homography_warp(image, views, size or image.shape[-2:], mode == "nearest", padding == "border")
    return result if theta.ndim == 4 else result[:, 0]


homography_warp = Op(reference=reference.homography_warp, cpu=_fused, triton=_fused)
