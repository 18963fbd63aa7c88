"""Any number of CPU threads gives the same bits: of every op, and of the whole loss.

The maps are so large that PyTorch's own functions would be cut into several chunks, of lengths that are no multiple of
a vector's. Some of its functions round differently in a vector than in the rest of a chunk, so no kernel uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from helpers import results_and_gradients, some_labels
from torch import Tensor

import inverseform_fast as iff
from inverseform_fast import functional
from inverseform_fast.nets import Align

SIZE = (203, 331)  # of logits and labels; 32768 numbers are the least that PyTorch cuts
LABELS = some_labels((1, *SIZE), 3)
TARGET = functional.boundary_map(LABELS)[:, None]
NET = iff.InverseTransformNet.compact().requires_grad_(False)
WEIGHTS = cast(Align, NET).weights
DISPLACED = LABELS.roll(5, -1)
SMALL = (112, 97)  # of the logits that are upsampled


def random(*shape: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def seen(labels: Tensor) -> Tensor:
    """Logits of a model that sees the labels where they are, but not sharply."""
    return 8 * F.avg_pool2d(F.one_hot(labels.long().clamp(max=2), 3).movedim(-1, 1).float(), 5, 1, 2)


def total(criterion: iff.BoundaryAwareLoss, *inputs: Tensor) -> Tensor:
    return criterion(inputs[0], LABELS, *inputs[1:]).total


CASES: dict[str, tuple[Callable[..., Tensor | tuple[Tensor, ...]], tuple[Tensor, ...]]] = {
    "boundary_map": (functional.boundary_map, (LABELS,)),
    "soft_boundary_map": (partial(functional.soft_boundary_map, size=SIZE), (random(1, 3, *SMALL),)),
    "its logits": (partial(functional.soft_boundary_map, size=SIZE, as_logits=True), (random(1, 3, *SMALL),)),
    "channels_first": (functional.channels_first, (random(1, 3, *SIZE).contiguous(memory_format=torch.channels_last),)),
    "segmentation_loss": (lambda x: functional.segmentation_loss(x, LABELS), (random(1, 3, *SMALL),)),
    "dice_loss": (lambda x: functional.dice_loss(x, LABELS), (random(1, 3, *SMALL),)),
    "dice_sums": (lambda x: functional.dice_sums(x, LABELS), (random(1, 3, *SMALL),)),
    "boundary_f1_loss": (lambda x: functional.boundary_f1_loss(x, LABELS), (random(1, 3, *SMALL),)),
    "boundary_f1_sums": (lambda x: functional.boundary_f1_sums(x, LABELS), (random(1, 3, *SMALL),)),
    "boundary_loss": (lambda x: functional.boundary_loss(x, LABELS), (random(1, 1, *SIZE),)),
    "extract_tiles": (lambda x: functional.extract_tiles(x, TARGET, (224, 224))[0], (random(1, 1, *SIZE),)),
    "homography_exp": (functional.homography_exp, (random(5001, 8, scale=0.2),)),
    "homography_warp": (functional.homography_warp, (random(2, 1, *SIZE), torch.eye(3) + random(2, 3, 3, scale=0.1))),
    "local_correlation": (functional.local_correlation, (random(1, 4, 101, 83), random(1, 4, 101, 83))),
    "align": (lambda x, y: functional.align(x, y, WEIGHTS), tuple(random(2, 3, 1, 224, 224).unbind())),
    "move_labels": (lambda motion: functional.move_labels(motion, LABELS), (random(1, 3, 5, 8, scale=0.03),)),
    "register_labels": (lambda x: functional.register_labels(x, DISPLACED), (seen(LABELS),)),
    "project_to_so3": (functional.project_to_so3, (random(5001, 3, 3),)),
    "geodesic_distance": (functional.geodesic_distance, tuple(torch.eye(3) + random(2, 5001, 3, 3, scale=0.1))),
    "headless": (partial(total, iff.BoundaryAwareLoss(gamma=0.3)), (random(1, 3, *SIZE),)),
    "head": (partial(total, iff.BoundaryAwareLoss(gamma=0.3)), (random(1, 3, *SMALL), random(1, 1, *SIZE))),
    "InverseFormLoss": (lambda x: iff.InverseFormLoss(NET, "geodesic")(x, TARGET), (random(1, 1, *SIZE),)),
}


@pytest.fixture(autouse=True)
def one_thread_afterwards() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


@pytest.mark.skipif(bool(iff.ops.backend.MISSING["cpu"]), reason="needs the extension")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_threads_gives_the_same_bits(name: str, dtype: torch.dtype) -> None:
    function, inputs = CASES[name]
    inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)
    one, *others = (with_threads(threads, function, inputs) for threads in (1, 2, 3, 4, 7))
    for other in others:
        torch.testing.assert_close(other, one, rtol=0, atol=0)


def with_threads(threads: int, function: Callable[..., Tensor | tuple[Tensor, ...]], inputs: tuple) -> list[Tensor]:
    torch.set_num_threads(threads)
    return results_and_gradients(function, *inputs)


def test_every_op_is_tried() -> None:
    assert set(functional.__all__) <= set(CASES)
