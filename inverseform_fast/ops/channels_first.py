"""channels_first: its ops, their gradients, and the choice of an implementation.

It changes no value. Maps whose channels lie side by side in memory (``channels_last``, as mixed precision trains with)
become contiguous, because the kernels of the losses read one class after the other; their gradient becomes
channels_last again. A loss of several terms does this once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..kernels.layout import layout
from .backend import Op
from .library import backward_op, differentiate, kernel, kernel_op


@kernel_op
def _channels_first(
    maps: Tensor,  # [N, C, h, w]
) -> Tensor:  # [N, C, h, w]
    return torch.empty_like(maps, memory_format=torch.contiguous_format)


@kernel(_channels_first, "CPU")
def _(maps: Tensor) -> Tensor:
    return maps.clone(memory_format=torch.contiguous_format)


@backward_op
def _channels_first_backward(
    grad: Tensor,  # [N, C, h, w]
) -> Tensor:  # [N, C, h, w]
    return torch.empty_like(grad, memory_format=torch.channels_last)


@kernel(_channels_first_backward, "CPU")
def _(grad: Tensor) -> Tensor:
    return grad.clone(memory_format=torch.channels_last)


def _save(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    """Nothing is needed."""


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    return _channels_first_backward(grad)


differentiate(_channels_first, _backward, _save)


def _copied(maps: Tensor) -> Tensor:
    return _channels_first(maps) if layout(maps) is torch.channels_last else maps


channels_first = Op(reference.channels_first, cpu=_copied, triton=_copied)
