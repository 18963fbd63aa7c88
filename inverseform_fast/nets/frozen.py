"""The base of modules that ask a frozen network how far two boundary maps are from each other."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from ..checks import check_path
from .base import InverseTransformNet
from .weights import weight_file

_COPIES: WeakKeyDictionary[nn.Module, dict[torch.device, InverseTransformNet]] = WeakKeyDictionary()


class WithFrozenNet(nn.Module):
    """Has a frozen inverse-transformation network, ``net``, that optimisers, checkpoints and DDP do not see.

    The network is no part of ``parameters()`` or ``state_dict()``. It follows ``.to()``, but stays in float32 or wider,
    and keeps its weights when a model goes to ``meta`` or becomes uninitialized (``to_empty()``).

    Args:
        net: ``"compact"`` or ``"predictions"`` (the package's own), a path to a weight file, or an
            :class:`InverseTransformNet`, which is frozen.

    Raises:
        TypeError: ``net`` is none of these.
        ValueError: the weight file is not valid, or the network is on ``meta`` and has no weights.
        FileNotFoundError: the weight file is missing.
    """

    net: InverseTransformNet

    def __init__(self, net: str | os.PathLike[str] | nn.Module) -> None:
        super().__init__()
        if isinstance(net, nn.Module):
            if not isinstance(net, InverseTransformNet):
                raise TypeError(f"net must be an InverseTransformNet, a name or a path, got {type(net).__name__}")
            frozen = net
        else:
            check_path(net, "net")
            with unset_fake_temporarily():  # a model that is only planned, with fake tensors, has a true network
                frozen = InverseTransformNet.from_file(weight_file(net))
        if any(tensor.is_meta for tensor in _tensors(frozen)):
            raise ValueError("net must have weights, got a network on the meta device: load it from a file")
        # This bypasses nn.Module.__setattr__, so that the frozen network is not registered.
        object.__setattr__(self, "net", frozen.requires_grad_(False).eval())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WithFrozenNet:
        """Let the unregistered network follow ``.to()``, ``.cuda()`` and the like."""
        super()._apply(fn, recurse)
        self.net._apply(keeping_values(fn))
        _COPIES.pop(self.net, None)
        return self

    def net_for(self, maps: Tensor) -> InverseTransformNet:
        """The network on the device of ``maps``: a copy, made once, where it is another, as in ``nn.DataParallel``."""
        here = next((tensor.device for tensor in _tensors(self.net)), maps.device)
        if here == maps.device or torch.compiler.is_compiling():
            return self.net
        copies = _COPIES.setdefault(self.net, {})
        if maps.device not in copies:
            copies[maps.device] = copy.deepcopy(self.net).to(maps.device)
        return copies[maps.device]


def keeping_values(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``fn`` of :meth:`torch.nn.Module._apply`, for tensors whose values no checkpoint holds.

    They go to the device and the dtype that ``fn`` gives, except to ``meta`` and half precision, with their values,
    which ``fn`` may drop.
    """

    def moved(tensor: Tensor) -> Tensor:
        like = fn(tensor.new_empty(0))
        device = tensor.device if like.is_meta else like.device
        return tensor.to(device, torch.float32 if like.dtype in (torch.float16, torch.bfloat16) else like.dtype)

    return moved


def _tensors(net: nn.Module) -> itertools.chain[Tensor]:
    return itertools.chain(net.parameters(), net.buffers())


def in_full_precision(maps: Tensor) -> AbstractContextManager[object]:
    """No autocast on the device of ``maps``; there is none on ``meta``."""
    return nullcontext() if maps.is_meta else torch.autocast(maps.device.type, enabled=False)


def nearest_multiples(target: Tensor, tile: int) -> tuple[int, int]:
    """The multiples of ``tile``, at least one tile, that are nearest to the height and width of ``target``."""
    height, width = target.shape[-2:]
    return max(1, (2 * height + tile) // (2 * tile)) * tile, max(1, (2 * width + tile) // (2 * tile)) * tile
