"""A step of a loss on a GPU that is not there: the loss, the gradients of its logits, and the ops that they run.

All tensors are on the device ``meta``: they have sizes and no values. So a step of large images takes neither memory
nor time, and still takes the same path through Python as on a GPU. Whatever would read a value back raises an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
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

PAPER = {"beta": 10, "gamma": 0.3, "edge": 0, "dice": 0, "f1": 0}
# Ops that only reserve memory, and the argument of which an op reads next to nothing.
RESERVING = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"}
UNREAD = {"nll_loss2d_forward": 0, "nll_loss2d_backward": 1}


class Case(NamedTuple):
    """A loss, and what it is called with."""

    weights: dict[str, Any]  # of the loss's terms; the others have their defaults
    has_head: bool = False
    memory_format: torch.memory_format = torch.contiguous_format  # of the logits
    is_stock: bool = False  # it is PyTorch's cross-entropy


class Size(NamedTuple):
    """Labels of ``images x height x width``."""

    images: int
    height: int
    width: int
    classes: int

    def __str__(self) -> str:
        return f"{self.images} x {self.height} x {self.width}, {self.classes} classes"


LOSSES = {
    "default": Case({}),
    "channels_last": Case({}, memory_format=torch.channels_last),
    "paper": Case(PAPER, has_head=True),
    "stock": Case({}, is_stock=True),
}


def make_step(
    case: Case,
    size: Size,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "meta",
    inverseform: iff.InverseFormLoss | None = None,
) -> Callable[[], tuple[Tensor, ...]]:
    """Make a step of the loss on logits of a quarter of the labels' resolution; it returns the logits' gradients."""
    n, height, width, classes = size
    low = math.ceil(height / 4), math.ceil(width / 4)
    logits = [
        torch.zeros(n, channels, *low, dtype=dtype, device=device).to(memory_format=case.memory_format).requires_grad_()
        for channels in ((classes, 1) if case.has_head else (classes,))
    ]
    labels = torch.zeros(n, height, width, dtype=torch.int64, device=device)
    ours = iff.BoundaryAwareLoss(**case.weights, inverseform=inverseform)
    criterion: Callable[..., Any] = release.segmentation_loss if case.is_stock else ours

    def step() -> tuple[Tensor, ...]:
        segmentation_logits, *head = logits
        loss = criterion(segmentation_logits, labels, *head)
        return torch.autograd.grad(getattr(loss, "total", loss), logits)

    return step


class Op(NamedTuple):
    """An op of ATen's that was run."""

    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    is_mutable: bool

    @property
    def is_view(self) -> bool:
        """Whether it does nothing on a GPU."""
        makes_none = not (self.is_mutable or _bytes(self.outputs).keys() - _bytes(self.inputs).keys())
        return makes_none or not any(x.numel() for x in self.outputs)

    @property
    def reserves(self) -> bool:
        """Whether it only reserves memory."""
        return self.name in RESERVING

    @property
    def moved(self) -> int:
        """The bytes that its kernel reads and writes on a GPU."""
        read = _bytes(x for place, x in enumerate(self.inputs) if place != UNREAD.get(self.name))
        return sum((read | _bytes(self.outputs)).values())


def _bytes(tensors: Iterable[Tensor]) -> dict[int, int]:
    """The bytes of the tensors, by storage."""
    return {x.untyped_storage()._cdata: min(x.nbytes, x.untyped_storage().nbytes()) for x in tensors}


class Ops(TorchDispatchMode):
    """Gives ``receive`` each op of ATen's, as it is below autograd. Our own ops do what they do for CUDA tensors."""

    def __init__(self, receive: Callable[[Op], object]) -> None:
        super().__init__()
        self.receive = receive

    def __torch_dispatch__(self, op: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if op.namespace == library.LIBRARY.ns:
            kernel, keys = torch.library.get_kernel(op, "CUDA"), torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
            with self:  # which is off in here, but a launcher calls ATen, too
                return kernel.call_boxed(keys, *args, **kwargs)
        with self:
            parts = op.decompose(*args, **kwargs)  # Some ops are nothing but others, on every device.
        if parts is not NotImplemented:
            return parts
        result = op(*args, **kwargs)
        inputs, outputs = (
            [x for x in tree_leaves(values) if isinstance(x, Tensor)] for values in ((args, kwargs), result)
        )
        self.receive(Op(op._schema.name.removeprefix("aten::"), inputs, outputs, op._schema.is_mutable))
        return result


@dataclass
class Recorded:
    """The launches of Triton kernels in a step, and the bytes that each kernel of PyTorch reads and writes."""

    triton: list[Launch] = field(default_factory=list)
    aten: list[tuple[str, int]] = field(default_factory=list)  # the op's name, its bytes

    def write(self, op: Op) -> None:
        if not (op.is_view or op.reserves):
            self.aten.append((op.name, op.moved))


def record(loss: str, size: Size) -> Recorded:
    """Record the second step of a loss of ``LOSSES``; the first one makes constants. No kernel is compiled."""
    step = make_step(LOSSES[loss], size)
    for _ in range(2):
        recorded = Recorded()
        with (
            patch.object(backend, "INTERPRETED", True),  # tensors that are on no GPU may run Triton kernels
            iff.set_backend("triton"),
            not_run(recorded.triton.append),
            Ops(recorded.write),
        ):
            step()
    return recorded
