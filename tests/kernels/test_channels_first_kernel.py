"""channels_first changes no value, and gives planes, with a gradient that is channels_last again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import deterministic, leaf_grad
from three_way import FLOATS, random, random_labels
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import inverseform_fast as iff
from inverseform_fast.functional import (
    boundary_f1_loss,
    channels_first,
    dice_loss,
    segmentation_loss,
    soft_boundary_map,
)

pytestmark = pytest.mark.kernel

# One channel, and one pixel, are contiguous in both layouts. A program takes 128 pixels and 32 channels.
SHAPES = [(2, 3, 5, 7), (1, 19, 16, 32), (2, 33, 11, 12), (1, 150, 3, 3), (3, 2, 1, 129), (2, 1, 4, 4), (2, 5, 1, 1)]
LABELS = random_labels(5, 1, 8, 12)
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "segmentation_loss": lambda logits: segmentation_loss(logits, LABELS),
    "dice_loss": lambda logits: dice_loss(logits, LABELS),
    "boundary_f1_loss": lambda logits: boundary_f1_loss(logits, LABELS),
    "soft_boundary_map": lambda logits: soft_boundary_map(logits, LABELS.shape[1:]).mean(),
    "BoundaryAwareLoss": lambda logits: iff.BoundaryAwareLoss()(logits, LABELS).total,
}


def as_channels_last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (0, 3, 4, 4)], ids=str)
def test_values_stay_and_the_layout_changes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    maps, grad = as_channels_last(random(*shape, dtype=dtype)).requires_grad_(), random(*shape, dtype=dtype)
    with deterministic():  # new memory holds NaN until a kernel writes it
        planes = channels_first(maps)
        planes.backward(grad)
    assert planes.is_contiguous()
    assert planes.equal(maps)
    assert leaf_grad(maps).is_contiguous(memory_format=torch.channels_last)
    assert leaf_grad(maps).equal(grad)


def test_maps_of_other_strides_are_not_copied() -> None:
    for maps in (random(2, 3, 4, 5), random(2, 3, 4, 10)[..., ::2], random(3, 2, 4, 5).mT):
        assert channels_first(maps) is maps


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_losses_give_the_same_for_either_layout(name: str, dtype: torch.dtype) -> None:
    planes = random(1, 5, 2, 3, dtype=dtype).requires_grad_()
    last = as_channels_last(planes.detach()).requires_grad_()
    values = [LOSSES[name](logits) for logits in (planes, last)]
    for value in values:
        value.backward()
    assert values[0] == values[1]
    assert leaf_grad(last).equal(leaf_grad(planes))
    assert leaf_grad(planes).is_contiguous()
    assert leaf_grad(last).is_contiguous(memory_format=torch.channels_last)


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops.append(op._schema.name.partition("::")[2])
        return op(*args, **(kwargs or {}))


@pytest.mark.kernel(each=False)
def test_the_whole_loss_copies_its_logits_once() -> None:
    logits = as_channels_last(random(1, 5, 2, 3)).requires_grad_()
    with _Counting() as counting:
        LOSSES["BoundaryAwareLoss"](logits).backward()
    assert counting.ops.count("channels_first") == counting.ops.count("channels_first_backward") == 1
