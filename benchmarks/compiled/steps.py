"""What a loss launches in one step, forward and backward, recorded at any size without a GPU.

The loss runs on tensors of the device ``meta``, which have sizes and no values. So a step of eight large images takes
neither memory nor time, and still takes the same path through Python as it does on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import inverseform_fast as iff
from benchmarks.compiled.cubins import Launch, not_run
from inverseform_fast.bench import release
from inverseform_fast.ops import backend, library

Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]  # of logits, labels and a boundary head's logits


class Loss(NamedTuple):
    make: Callable[[], Criterion]
    memory_format: torch.memory_format = torch.contiguous_format  # of the logits


def _default() -> Criterion:
    loss = iff.BoundaryAwareLoss()
    return lambda logits, labels, _: loss(logits, labels).total


def _paper() -> Criterion:
    loss = iff.BoundaryAwareLoss(beta=10, gamma=0.3, edge=0, dice=0, f1=0)
    return lambda *maps: loss(*maps).total


def _stock() -> Criterion:
    return lambda logits, labels, _: release.segmentation_loss(logits, labels)


LOSSES = {
    "default": Loss(_default),
    "channels_last": Loss(_default, torch.channels_last),
    "paper": Loss(_paper),
    "stock": Loss(_stock),
}


UNREAD = {"nll_loss2d_forward": 0, "nll_loss2d_backward": 1}  # the argument of which an op reads next to nothing


@dataclass(frozen=True)
class Size:
    """Labels of ``images x height x width``, and bfloat16 logits at a quarter of their resolution."""

    images: int
    height: int
    width: int
    classes: int

    def __str__(self) -> str:
        return f"{self.images} x {self.height}x{self.width}, {self.classes} classes"


@dataclass
class Recorded:
    """The launches of Triton kernels in a step, and the bytes that each kernel of PyTorch reads and writes."""

    triton: list[Launch] = field(default_factory=list)
    aten: list[tuple[str, int]] = field(default_factory=list)  # the op's name, its bytes


def record(loss: str, size: Size) -> Recorded:
    """Record the second step of a loss of ``LOSSES``, with the logits' gradients; the first one makes constants."""
    make, memory_format = LOSSES[loss]
    criterion = make()
    low = size.height // 4, size.width // 4
    logits, boundary_logits = (
        torch.empty(size.images, channels, *low, dtype=torch.bfloat16, device="meta", memory_format=memory_format)
        for channels in (size.classes, 1)
    )
    labels = torch.empty(size.images, size.height, size.width, dtype=torch.int64, device="meta")
    for _ in range(2):
        recorded = Recorded()
        with (
            patch.object(backend, "INTERPRETED", True),  # tensors that are on no GPU may run Triton kernels
            iff.set_backend("triton"),
            not_run(recorded.triton.append),
            _Dispatched(recorded.aten),
        ):
            value = criterion(logits.requires_grad_(), labels, boundary_logits.requires_grad_())
            torch.autograd.grad(value, (logits, boundary_logits), allow_unused=True)
    return recorded


class _Dispatched(TorchDispatchMode):
    """Ops with Triton kernels launch them, though ``meta`` is no GPU; what the other ops read and write is listed."""

    def __init__(self, aten: list[tuple[str, int]]) -> None:
        super().__init__()
        self.aten = aten

    def __torch_dispatch__(
        self, op: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        namespace, name = op._schema.name.split("::")
        if namespace == library.LIBRARY.ns and name in library._LAUNCHERS:
            with self:  # which is off in here, but a launcher calls PyTorch, too
                return library._LAUNCHERS[name](*args)
        result = op(*args, **(kwargs or {}))
        read = _on_the_gpu([x for place, x in enumerate(args) if place != UNREAD.get(name)])
        written = _on_the_gpu(result)
        new = written.keys() - read.keys()
        if (new or op._schema.is_mutable) and not name.startswith(("empty", "new_empty")):  # no view, and no allocation
            self.aten.append((name, sum((read | written).values())))
        return result


def _on_the_gpu(values: object) -> dict[int, int]:
    """The bytes of the tensors among ``values`` that would be on the GPU, by storage."""
    tensors = [x for x in tree_leaves(values) if isinstance(x, Tensor) and x.is_meta]
    return {x.untyped_storage()._cdata: min(x.nbytes, x.untyped_storage().nbytes()) for x in tensors}
