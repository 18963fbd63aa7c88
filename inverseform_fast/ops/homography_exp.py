"""homography_exp: its implementations by backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from .backend import Op, kernel_op, runs_on_cpu


@kernel_op
def _homography_exp(a: Tensor) -> Tensor:
    if runs_on_cpu(a):
        return torch.ops.inverseform_fast.homography_exp_cpu(a)
    from ..kernels import homography_exp as kernel

    return kernel.homography_exp(a)


@_homography_exp.register_fake
def _(a: Tensor) -> Tensor:
    return a.new_empty(*a.shape[:-1], 3, 3)


@kernel_op
def _homography_exp_backward(grad: Tensor, a: Tensor) -> Tensor:
    if runs_on_cpu(a):
        return torch.ops.inverseform_fast.homography_exp_backward_cpu(grad, a)
    from ..kernels import homography_exp as kernel

    return kernel.homography_exp_backward(grad, a)


@_homography_exp_backward.register_fake
def _(grad: Tensor, a: Tensor) -> Tensor:
    return a.new_empty(a.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    return _homography_exp_backward(grad, *ctx.saved_tensors)


_homography_exp.register_autograd(_backward, setup_context=_save)

homography_exp = Op(reference=reference.homography_exp, cpu=_homography_exp, triton=_homography_exp)
