"""homography_exp: its ops, their gradients, and the choice of an implementation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import reference
from .backend import Op
from .library import backward_op, differentiate, kernel_op


@kernel_op
def _homography_exp(
    a: Tensor,  # [..., 8]
) -> Tensor:  # [..., 3, 3]
    return a.new_empty(*a.shape[:-1], 3, 3)


@backward_op
def _homography_exp_backward(
    grad: Tensor,  # [..., 3, 3]
    a: Tensor,  # [..., 8]
) -> Tensor:  # [..., 8]
    return a.new_empty(a.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    return _homography_exp_backward(grad, *ctx.saved_tensors)


differentiate(_homography_exp, _backward, _save)

homography_exp = Op(reference.homography_exp, cpu=_homography_exp, triton=_homography_exp)
