"""The reference of homography_exp equals torch.matrix_exp, and bad input is named; more is in test_homography.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import assert_same_when_called, ways
from torch import Tensor

import inverseform_fast as iff
from inverseform_fast import homography
from inverseform_fast.functional import homography_exp


def coefficients(*batch: int, dtype: torch.dtype = torch.float32, scale: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (scale * torch.randn(*batch, 8, generator=generator, dtype=torch.float64)).to(dtype)


def by_torch(a: Tensor) -> Tensor:
    return torch.matrix_exp((a @ homography.basis(a.dtype).flatten(1)).unflatten(-1, (3, 3)))


@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0])
def test_the_reference_is_the_matrix_exponential_and_its_gradient(scale: float) -> None:
    a = coefficients(4, 5, dtype=torch.float64, scale=scale).requires_grad_()
    incoming = torch.linspace(-1, 1, 180, dtype=torch.float64).view(4, 5, 3, 3)
    theta, expected = homography_exp(a), by_torch(a)
    torch.testing.assert_close(theta, expected, rtol=1e-12, atol=1e-12)
    found, true = (torch.autograd.grad(result, a, incoming)[0] for result in (theta, expected))
    torch.testing.assert_close(found, true, rtol=1e-10, atol=1e-12)


def test_both_derivatives_of_the_reference_agree_with_differences() -> None:
    a = coefficients(3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(homography_exp, a)
    assert torch.autograd.gradgradcheck(homography_exp, a)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_computes_in_float64_and_rounds_once(dtype: torch.dtype) -> None:
    a = coefficients(50, dtype=dtype)
    assert homography_exp(a).equal(homography_exp(a.double()).to(dtype))


@ways
def test_layout_context_and_compiler_change_nothing(way: str) -> None:
    assert_same_when_called(way, homography_exp, coefficients(4, 3))


def test_a_batch_of_one_and_an_empty_one() -> None:
    a = coefficients(2)
    assert homography_exp(a[0]).equal(homography_exp(a)[0])
    empty = torch.zeros(0, 4, 8, requires_grad=True)
    homography_exp(empty).sum().backward()
    assert homography_exp(empty).shape == (0, 4, 3, 3)
    assert empty.grad is not None


def test_function_transforms_run_the_reference() -> None:
    a = coefficients(4)
    torch.testing.assert_close(torch.func.vmap(homography_exp)(a), homography_exp(a))
    rows = torch.func.vmap(torch.func.jacrev(homography_exp))(a)
    with iff.set_backend("reference"):
        expected = torch.stack([torch.autograd.functional.jacobian(homography_exp, row) for row in a])
    torch.testing.assert_close(rows, expected)


@pytest.mark.parametrize(
    ("a", "error", "message"),
    [
        ([0.0] * 8, TypeError, "a must be a tensor, got list"),
        (torch.zeros(2, 9), ValueError, r"a must have shape \(..., 8\), got \(2, 9\)"),
        (torch.zeros(()), ValueError, r"a must have shape \(..., 8\), got \(\)"),
        (torch.zeros(8).long(), TypeError, "a must be floating point, got torch.int64"),
    ],
)
def test_bad_input_is_an_error_that_names_it(a: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        homography_exp(a)
