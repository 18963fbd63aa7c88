"""local_correlation equals its definition, in values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import assert_same_when_called, local_correlation_by_definition, ways
from torch import Tensor

from inverseform_fast.functional import local_correlation

# (N, C, h, w), reach, groups: none, farther than the map, single cells, wider than a vector
CASES = [
    ((1, 4, 5, 6), 0, 1), ((2, 6, 4, 5), 2, 3), ((1, 3, 2, 3), 4, 3), ((1, 2, 1, 1), 1, 1),
    ((1, 5, 3, 70), 1, 5),
]  # fmt: skip


def some_maps(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return first, second


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "reach", "groups"), CASES, ids=str)
def test_the_correlation_is_its_definition(shape: tuple[int, ...], reach: int, groups: int, dtype: torch.dtype) -> None:
    maps = some_maps(shape, dtype)
    torch.testing.assert_close(
        local_correlation(*maps, reach, groups), local_correlation_by_definition(*maps, reach, groups)
    )


def test_the_gradient_agrees_with_differences() -> None:
    maps = [x.requires_grad_() for x in some_maps((1, 4, 3, 4), torch.float64)]
    assert torch.autograd.gradcheck(lambda a, b: local_correlation(a, b, 2, 2), maps)


@ways
def test_layout_context_and_compiler_change_nothing(way: str) -> None:
    assert_same_when_called(way, local_correlation, *some_maps((2, 6, 4, 5)), reach=2, groups=3)


def test_an_empty_batch() -> None:
    first, second = some_maps((0, 4, 3, 5))
    assert local_correlation(first.requires_grad_(), second, 1).shape == (0, 9, 3, 5)
    local_correlation(first, second, 1).sum().backward()
    assert first.grad is not None


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"first": torch.zeros(4, 3, 5)}, ValueError, r"first must have shape \(N, C, h, w\), got \(4, 3, 5\)"),
        ({"first": torch.zeros(1, 4, 3, 5).long()}, TypeError, "first must be floating point, got torch.int64"),
        ({"second": torch.zeros(1, 4, 3, 6)}, ValueError, r"second must be like first, .*got .*\(1, 4, 3, 6\)"),
        ({"second": torch.zeros(1, 4, 3, 5).double()}, ValueError, "second must be like first, .* got torch.float64"),
        ({"second": torch.zeros(1, 4, 3, 5, device="meta")}, ValueError, "second must be on the device of first, cpu"),
        ({"reach": -1}, ValueError, "reach must be a whole number of cells, at least 0, got -1"),
        ({"groups": 3}, ValueError, "groups must divide the 4 channels, got 3"),
        ({"groups": 0}, ValueError, "groups must divide the 4 channels, got 0"),
    ],
)  # fmt: skip
def test_bad_input_is_an_error_that_names_it(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    good = {"first": torch.zeros(1, 4, 3, 5), "second": torch.zeros(1, 4, 3, 5)}
    with pytest.raises(error, match=message):
        local_correlation(**(good | changed))
