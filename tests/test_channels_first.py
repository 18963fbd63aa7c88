"""channels_first changes no value, whoever computes it."""

from __future__ import annotations

import pytest
import torch

import inverseform_fast as iff
from inverseform_fast.functional import channels_first


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_values_and_gradients_stay(backend: str, layout: torch.memory_format) -> None:
    maps = torch.randn(2, 3, 4, 5).contiguous(memory_format=layout).requires_grad_()
    grad = torch.randn(2, 3, 4, 5)
    with iff.set_backend(backend):
        planes = channels_first(maps)
        (found,) = torch.autograd.grad(planes, maps, grad)
    assert torch.equal(planes, maps)
    assert torch.equal(found, grad)
