"""The base of modules that ask a frozen network how far two boundary maps are from each other."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from .base import InverseTransformNet
from .weights import weight_file


class WithFrozenNet(nn.Module):
    """Has a frozen inverse-transformation network, ``net``, that optimisers, checkpoints and DDP do not see.

    The network is no part of ``parameters()`` or ``state_dict()``. It follows ``.to()``, but stays in float32 or wider.

    Args:
        net: ``"compact"`` or ``"predictions"`` (the package's own), a path to a weight file, or an
            :class:`InverseTransformNet`, which is frozen.

    Raises:
        ValueError: the weight file is not valid.
        FileNotFoundError: the weight file is missing.
    """

    net: InverseTransformNet

    def __init__(self, net: str | os.PathLike[str] | nn.Module) -> None:
        super().__init__()
        if isinstance(net, nn.Module):
            frozen = cast(InverseTransformNet, net)
        else:
            frozen = InverseTransformNet.from_file(weight_file(net))
        # This bypasses nn.Module.__setattr__, so that the frozen network is not registered.
        object.__setattr__(self, "net", frozen.requires_grad_(False).eval())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WithFrozenNet:
        """Let the unregistered network follow ``.to()``, ``.cuda()`` and the like, except into half precision."""

        def in_full_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved.float() if moved.dtype in (torch.float16, torch.bfloat16) else moved

        super()._apply(fn, recurse)
        self.net._apply(in_full_precision)
        return self


def nearest_multiples(target: Tensor, tile: int) -> tuple[int, int]:
    """The multiples of ``tile``, at least one tile, that are nearest to the height and width of ``target``."""
    height, width = target.shape[-2:]
    return max(1, (2 * height + tile) // (2 * tile)) * tile, max(1, (2 * width + tile) // (2 * tile)) * tile
