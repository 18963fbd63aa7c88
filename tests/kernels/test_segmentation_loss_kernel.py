"""The kernel of segmentation_loss weighs classes; test_class_losses_kernel.py has the rest."""

from __future__ import annotations

import pytest
import torch
from helpers import leaf_grad
from three_way import DEVICE, assert_three_way, random, random_labels

from inverseform_fast.functional import segmentation_loss
from inverseform_fast.kernels.memory import plane_strides

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("classes", [1, 2, 19, 150])
def test_class_weights(classes: int) -> None:
    weights = (torch.rand(classes) + 0.5).to(DEVICE)
    labels = random_labels(classes, 1, 7, 9)
    assert_three_way("segmentation_loss", random(1, classes, 3, 4), labels, class_weights=weights)


def test_weights_that_are_learned_get_their_gradient() -> None:
    weights = (torch.rand(3) + 0.5).to(DEVICE).requires_grad_()
    segmentation_loss(random(1, 3, 2, 2), random_labels(3, 1, 4, 4), weights).backward()
    assert leaf_grad(weights).any()


@pytest.mark.triton
def test_a_map_that_spans_too_much_memory_is_refused() -> None:
    spread = torch.empty_strided((1, 1, 2, 2), (1, 1, 2**31, 1), device="meta")
    with pytest.raises(ValueError, match=r"spans 2\^31 elements: make it contiguous"):
        plane_strides(spread)
