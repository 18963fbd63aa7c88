"""Compares kernel, reference and truth: a kernel may err twice as much as the reference errs, plus rounding."""

from __future__ import annotations

from typing import Any

import torch
from helpers import deterministic
from torch import Tensor

from inverseform_fast import functional, reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOAT32_ROUNDING = 2 * torch.finfo(torch.float32).eps
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def random(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 3.0) -> Tensor:
    return (scale * torch.randn(shape)).to(dtype).to(DEVICE)


def random_labels(classes: int, *shape: int, void: float = 0.1, dtype: torch.dtype = torch.int64) -> Tensor:
    """Patches of about three pixels, with void specks."""
    n, height, width = shape
    coarse = torch.randint(classes, (n, height // 3 + 1, width // 3 + 1))
    labels = coarse.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :height, :width].to(dtype)
    return labels.masked_fill(torch.rand(shape) < void, 255).to(DEVICE)


def assert_three_way(op: str, *inputs: Any, factor: float = 2, **options: Any) -> None:
    """Asserts that the kernel's results and gradients err little enough, and that two runs give the same bits."""
    with deterministic():  # new tensors hold NaN (whole numbers: the largest) until a kernel writes them
        kernel = _run(getattr(functional, op), inputs, options)
        again = _run(getattr(functional, op), inputs, options)
    torch.testing.assert_close(kernel, again, rtol=0, atol=0, equal_nan=True)
    expected = _run(getattr(reference, op), inputs, options)
    truth = _run(getattr(reference, op), [x.double() if _floating(x) else x for x in inputs], options)
    for ours, theirs, exact in zip(kernel, expected, truth, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        rounding = torch.finfo(ours.dtype).eps / 2 + FLOAT32_ROUNDING if ours.is_floating_point() else 0
        # The largest of a few errors scatters more than their mean, so it may be larger.
        for measure, times in ((_mean, factor), (_largest, 2 * factor)):
            allowed = times * (measure(theirs - exact) + rounding * measure(exact))
            assert measure(ours - exact) <= allowed, f"{measure(ours - exact)} > {allowed} of {measure(exact)}"


def _run(function: Any, inputs: Any, options: dict[str, Any]) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() if _floating(x) else x for x in inputs]
    results = function(*inputs, **options)
    results = results if isinstance(results, tuple) else (results,)
    differentiable = [x for x in inputs if _floating(x)]
    rated = [result for result in results if result.requires_grad]
    incoming = [_incoming(result) for result in rated]
    gradients = torch.autograd.grad(rated, differentiable, incoming, allow_unused=True) if rated else ()
    return [*(result.detach() for result in results), *(g for g in gradients if g is not None)]


def _incoming(result: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(result.numel())
    return torch.randn(result.shape, generator=generator).to(result)


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _mean(values: Tensor) -> float:
    return values.double().square().mean().sqrt().item() if values.numel() else 0.0


def _largest(values: Tensor) -> float:
    return values.double().abs().max().item() if values.numel() else 0.0
