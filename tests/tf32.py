"""Convolutions as a GPU's matrix units compute them from numbers of TF32, which have ten bits of fraction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from inverseform_fast.reference.align import OUTPUTS

Change = Callable[[Tensor], Tensor]


def cut(x: Tensor) -> Tensor:
    """What a matrix unit reads of a float32: all but its 13 low bits."""
    return (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


def rounded(x: Tensor) -> Tensor:
    """The nearest number of TF32; of two, the one that is farther from 0. ``x`` must be finite."""
    return cut((x.contiguous().view(torch.int32) + 0x1000).view(torch.float32))


class _Operand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Change) -> Tensor:
        return change(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Result(torch.autograd.Function):
    """Its gradient is an operand of the backward's products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Change) -> Tensor:
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.change(grad), None


@contextmanager
def convolutions_of(change: Change) -> Iterator[None]:
    """Within the block ``change`` is applied to all operands of ``conv2d``, forward and backward.

    It is not applied to those of align's last convolution, which has too few channels for a matrix unit.
    """
    convolve = nn.functional.conv2d

    def conv2d(x: Tensor, weight: Tensor, *rest: Any, **options: Any) -> Tensor:
        if len(weight) == OUTPUTS:
            return convolve(x, weight, *rest, **options)
        operands = (_Operand.apply(operand, change) for operand in (x, weight))
        return _Result.apply(convolve(*operands, *rest, **options), change)

    with patch.object(nn.functional, "conv2d", conv2d):
        yield
