"""so3: the ops of project_to_so3 and geodesic_distance, their gradients, and the choice of an implementation.

The extension's kernels (csrc/so3) take matrices (..., 3, 3) of one shape, in float32 or float64. The distance's kernel
computes the gradients along with the distances. The autograd is written here, not registered with the ops, so that
torch.func can differentiate them, too.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .backend import Op
from .library import LIBRARY, define

NORMALIZE = (None, "frobenius", "det")  # C++ knows them by their positions


@define
def _project_to_so3(
    matrix: Tensor,  # [..., 3, 3]
) -> Tensor:  # [..., 3, 3]
    return matrix.new_empty(matrix.shape)


@define
def _project_to_so3_backward(
    grad: Tensor,  # [..., 3, 3]
    matrix: Tensor,  # [..., 3, 3]
    rotation: Tensor,  # [..., 3, 3], what the forward returned
) -> Tensor:  # [..., 3, 3]
    return grad.new_empty(grad.shape)


@define
def _geodesic_distance(
    theta: Tensor,  # [..., 3, 3]
    theta_hat: Tensor,  # [..., 3, 3]
    lam: float,
    normalize: int,
    smooth: float,
    damping: float,
    wants_theta: bool,
    wants_theta_hat: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # [...], [..., 3, 3] twice
    """The distances, and their gradients, empty where not wanted."""
    shapes = (theta.shape if wanted else (0,) for wanted in (wants_theta, wants_theta_hat))
    grad_theta, grad_theta_hat = (theta.new_empty(shape) for shape in shapes)
    return theta.new_empty(theta.shape[:-2]), grad_theta, grad_theta_hat


def differentiable_once(gradient: Tensor, *inputs: Tensor) -> Tensor:
    """``gradient``, of which a derivative for ``inputs`` is an error, not 0 (torch.compile refuses it by itself)."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return gradient
    return _Once.apply(gradient, *inputs)


class _Once(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        return None

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise NotImplementedError(
            "the kernels of project_to_so3 and geodesic_distance are differentiated once; choose the backend "
            "'reference'"
        )


class _Projection(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor) -> Tensor:
        return _project_to_so3(matrix)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        matrix, rotation = ctx.saved_tensors
        return differentiable_once(_project_to_so3_backward(grad, matrix, rotation), matrix)


class _Distance(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        theta: Tensor,
        theta_hat: Tensor,
        lam: float,
        normalize: int,
        smooth: float,
        damping: float,
        wants_theta: bool,
        wants_theta_hat: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # *options would look like a method with a ctx to torch.compile
        return _geodesic_distance(theta, theta_hat, lam, normalize, smooth, damping, wants_theta, wants_theta_hat)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:2], *output[1:])
        ctx.set_materialize_grads(False)  # make no zeros for the outputs that are gradients
        ctx.wanted = inputs[-2:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 8
        theta, theta_hat, *saved = ctx.saved_tensors
        gradients = (
            differentiable_once(grad[..., None, None] * gradient, theta, theta_hat) if wanted else None
            for gradient, wanted in zip(saved, ctx.wanted, strict=True)
        )
        return *gradients, *[None] * 6


for _function in (_Projection.forward, _Distance.forward):
    vars(_function)["__signature__"] = signature(_function)  # torch asks for it in every call


def _projection(matrix: Tensor) -> Tensor:
    return _Projection.apply(matrix.to(torch.promote_types(matrix.dtype, torch.float32)))


def _distance(
    theta: Tensor, theta_hat: Tensor, lam: float, normalize: str | None, smooth: float, damping: float
) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(theta.dtype, theta_hat.dtype), torch.float32)
    pair = torch.broadcast_tensors(theta.to(dtype), theta_hat.to(dtype))
    wanted = (torch.is_grad_enabled() and matrix.requires_grad for matrix in pair)
    return _Distance.apply(*pair, lam, NORMALIZE.index(normalize), smooth, damping, *wanted)[0]


def _map_over_batches(op: Any) -> None:
    def mapped(info: Any, dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        """Make vmap's dimension one more batch dimension, in front of the others."""
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        fronted = [
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(tensors, dims, strict=False)
        ]
        results = op(*fronted, *args[len(tensors) :])
        if isinstance(results, Tensor):
            return results, 0
        return results, tuple(0 if len(result) else None for result in results)  # a gradient that nobody wants is empty

    torch.library.register_vmap(op, mapped, lib=LIBRARY)


for _op in (_project_to_so3, _project_to_so3_backward, _geodesic_distance):
    _map_over_batches(_op)

project_to_so3 = Op(reference.project_to_so3, float64=True, cpu=_projection, cuda=_projection)
geodesic_distance = Op(reference.geodesic_distance, float64=True, cpu=_distance, cuda=_distance)
