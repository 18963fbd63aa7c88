"""The kernels of homography_exp are as accurate as the reference."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_same_when_called, leaf_grad, results_and_gradients, ways
from three_way import DEVICE, FLOATS, assert_three_way, random
from torch import Tensor

import inverseform_fast as iff
from inverseform_fast import homography
from inverseform_fast.functional import homography_exp
from inverseform_fast.ops.backend import INTERPRETED

pytestmark = pytest.mark.kernel

# Batch: one, less than a vector's and a program's rows, more than both, whole ones
BATCHES = [(), (1,), (5,), (3, 15), (64,)]


def gradient(a: Tensor, incoming: Tensor) -> Tensor:
    a = a.detach().requires_grad_()
    return torch.autograd.grad(homography_exp(a), a, incoming)[0]


@pytest.mark.parametrize("scale", [1e-4, 0.3, 1.5])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_the_kernel_is_as_accurate_as_the_reference(batch: tuple[int, ...], scale: float) -> None:
    assert_three_way("homography_exp", random(*batch, 8, scale=scale))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_dtype_is_as_accurate_as_the_reference(dtype: torch.dtype) -> None:
    assert_three_way("homography_exp", random(20, 8, dtype=dtype, scale=0.3))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_computes_in_float64_and_rounds_once(dtype: torch.dtype) -> None:
    if INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("the interpreter truncates float32 to bfloat16")
    a = random(40, 8, dtype=dtype, scale=0.3)
    ours = results_and_gradients(homography_exp, a)
    with iff.set_backend("reference"):
        theirs = results_and_gradients(homography_exp, a)
    for found, expected in zip(ours, theirs, strict=True):
        assert found.equal(expected)


def test_zero_is_the_identity_and_its_gradient_the_generators() -> None:
    zero, entries = torch.zeros(9, 8, device=DEVICE), torch.eye(9, device=DEVICE).view(9, 3, 3)
    assert homography_exp(zero).equal(torch.eye(3, device=DEVICE).expand(9, 3, 3))
    assert gradient(zero, entries).equal(homography.basis(device=DEVICE).flatten(1).T)


def test_the_generators_are_those_of_the_basis() -> None:
    step = 2.0**-40  # its square is lost in float32
    moved = homography_exp(step * torch.eye(8, device=DEVICE)) - torch.eye(3, device=DEVICE)
    off_diagonal = ~torch.eye(3, dtype=torch.bool, device=DEVICE)
    assert (moved / step)[:, off_diagonal].equal(homography.basis(device=DEVICE)[:, off_diagonal])
    a = torch.eye(8, device=DEVICE)
    torch.testing.assert_close(homography_exp(a), torch.matrix_exp(homography.basis(device=DEVICE)))


def test_a_row_does_not_depend_on_the_others() -> None:
    a, incoming = random(50, 8, scale=0.3), random(50, 3, 3)
    a[7] = torch.nan
    others = [i for i in range(50) if i != 7]
    theta, grad = homography_exp(a), gradient(a, incoming)
    assert theta[7].isnan().all()
    order = torch.tensor(others[::-1], device=DEVICE)
    assert homography_exp(a[order]).equal(theta[order])
    assert gradient(a[order], incoming[order]).equal(grad[order])
    for i in (0, 13, 49):
        assert homography_exp(a[i]).equal(theta[i])
        assert gradient(a[i], incoming[i]).equal(grad[i])


@ways
def test_layout_context_and_compiler_change_nothing(way: str) -> None:
    assert_same_when_called(way, homography_exp, random(4, 3, 8, scale=0.3))


def test_an_empty_batch() -> None:
    a = random(0, 4, 8).requires_grad_()
    homography_exp(a).sum().backward()
    assert leaf_grad(a).shape == a.shape
