"""torch finds the custom ops right: schema, strides of fakes, autograd, tracing with dynamic shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import results_and_gradients
from three_way import random, random_labels
from torch import Tensor

from inverseform_fast import homography, ops
from inverseform_fast.nets import Align

pytestmark = pytest.mark.kernel

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "strided": lambda x: x.mT.contiguous().mT[..., ::2],
    "bfloat16": lambda x: x.bfloat16(),
}


def calls(lay_out: Callable[[Tensor], Tensor]) -> dict[str, tuple[Any, ...]]:
    """Makes arguments of every op; the logits are so small that a cell has several parts."""
    logits, boundary_logits = (lay_out(random(2, c, 2, 4)).requires_grad_() for c in (3, 1))
    image = lay_out(random(2, 3, 5, 6)).requires_grad_()
    theta = homography.exp(0.1 * torch.randn(2, 2, 8)).to(image.device).requires_grad_()
    coefficients = lay_out(random(2, 3, 4, 16, scale=0.3))[..., :8].requires_grad_()
    features = [lay_out(random(2, 4, 5, 6)).requires_grad_() for _ in range(2)]
    tiles = [lay_out(random(2, 1, 8, 16))[..., :8].requires_grad_() for _ in range(2)]
    labels = random_labels(3, 2, 12, 13)
    target = torch.randint(2, (2, 1, 12, 13), device=labels.device)
    weights = [weight.detach().to(image.device) for weight in Align(8).weights]
    return {
        "align": (*tiles, weights),
        "boundary_map": (labels, 1, 255, False),
        "channels_first": (logits,),
        "segmentation_loss": (logits, labels, None, 255, True),
        "boundary_loss": (boundary_logits, labels, 1, 255, None, True),
        "boundary_f1_loss": (logits, labels, 2, 255, 2, None),
        "boundary_f1_sums": (logits, labels, 2, 255, 2),
        "dice_loss": (logits, labels, 255, None),
        "dice_sums": (logits, labels, 255),
        "extract_tiles": (boundary_logits, target, [8, 16], 8, True),
        "homography_exp": (coefficients,),
        "homography_warp": (image, theta, [4, 5], False, True),
        "local_correlation": (*features, 1, 2),
        "move_labels": (0.03 * torch.randn(2, 3, 1, 8).to(labels.device), labels, 255),
        "register_labels": (logits.detach().softmax(1), labels, 255),
        "soft_boundary_map": (logits, [12, 13], 1),
    }


@pytest.mark.kernel(each=False)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", calls(LAYOUTS["contiguous"]))
def test_the_ops_pass_opcheck(name: str, layout: str) -> None:
    torch.library.opcheck(getattr(torch.ops.inverseform_fast, name).default, calls(LAYOUTS[layout])[name])


@pytest.mark.parametrize("name", calls(LAYOUTS["contiguous"]))
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    op, inputs = getattr(torch.ops.inverseform_fast, name), calls(LAYOUTS["contiguous"])[name]
    one = results_and_gradients(op, *inputs)
    torch.set_num_threads(3)
    try:
        three = results_and_gradients(op, *inputs)
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(three, one, rtol=0, atol=0)


def test_every_op_with_a_kernel_is_checked() -> None:
    with_kernel = {op.name for op in ops.backend._OPS if "triton" in op.implementations}
    assert with_kernel == set(calls(LAYOUTS["contiguous"]))
