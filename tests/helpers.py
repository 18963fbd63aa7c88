"""Many tests need labels, and the check that an op gives the same in whatever way it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "batch innermost": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "every other column": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x,
}
CONTEXTS: dict[str, Callable[[str], Any]] = {
    "autocast": lambda device: torch.autocast(device, torch.bfloat16),
    "deterministic": lambda _: deterministic(),
}
ways = pytest.mark.parametrize("way", ["compiled", *CONTEXTS, *LAYOUTS])


def assert_same_when_called(way: str, op: Callable[..., Any], *inputs: Any, **options: Any) -> None:
    """Asserts that results, dtypes and gradients are those of the plain call, and that the inputs do not change."""
    before = [x.clone() if isinstance(x, Tensor) else x for x in inputs]
    expected = results_and_gradients(op, *inputs, **options)
    torch.testing.assert_close(list(inputs), before, rtol=0, atol=0)

    lay_out = LAYOUTS.get(way, Tensor.clone)
    inputs = tuple(lay_out(x) if isinstance(x, Tensor) else x for x in inputs)
    if way == "compiled":
        torch.compiler.reset()
        op = torch.compile(op, fullgraph=True, backend="aot_eager")
    with CONTEXTS.get(way, nullcontext)(next(x.device.type for x in inputs if isinstance(x, Tensor))):
        actual = results_and_gradients(op, *inputs, **options)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def leaf_grad(leaf: Tensor) -> Tensor:
    """What ``backward()`` left there."""
    assert leaf.grad is not None
    return leaf.grad


def results_and_gradients(op: Callable[..., Any], *inputs: Any, **options: Any) -> list[Tensor]:
    inputs = tuple(x.detach().requires_grad_(x.is_floating_point()) if isinstance(x, Tensor) else x for x in inputs)
    results = op(*inputs, **options)
    results = list(results) if isinstance(results, tuple) else [results]
    scalar = sum((r * torch.linspace(-1, 1, r.numel(), device=r.device).view(r.shape)).sum() for r in results)
    floating = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    gradients = torch.autograd.grad(scalar, floating, allow_unused=True) if floating and scalar.requires_grad else ()
    return [result.detach() for result in results] + [g for g in gradients if g is not None]


def some_labels(
    shape: tuple[int, ...], classes: int, seed: int = 0, void: int | None = 255, share: float = 0.1
) -> Tensor:
    """Draws labels: areas of 3x3 pixels, with specks of noise and, in a share of the pixels, of void."""
    g = torch.Generator().manual_seed(seed)
    n, h, w = shape
    areas = torch.randint(classes, (n, h // 3 + 1, w // 3 + 1), generator=g)
    labels = areas.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :h, :w]
    noise = torch.rand(shape, generator=g)
    labels = torch.where(noise < 0.05, torch.randint(classes, shape, generator=g), labels)
    return labels if void is None else labels.masked_fill(noise > 1 - share, void)


def boundary_map_by_definition(labels: Tensor, radius: int, ignore_index: int = 255) -> Tensor:
    """Marks a pixel if a pixel of another valid class lies within Euclidean distance radius; void is 255."""
    result = torch.zeros(labels.shape, dtype=torch.uint8)
    rows, columns = torch.meshgrid(*map(torch.arange, labels.shape[1:]), indexing="ij")
    for n, y, x in np.ndindex(*labels.shape):
        near = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        other_class = (labels[n] != labels[n, y, x]) & (labels[n] != ignore_index)
        result[n, y, x] = 255 if labels[n, y, x] == ignore_index else (near & other_class).any()
    return result


def local_correlation_by_definition(first: Tensor, second: Tensor, reach: int, groups: int) -> Tensor:
    n, _, height, width = first.shape
    span = 2 * reach + 1
    result = first.new_zeros(n, groups, span, span, height, width)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            for y in range(max(0, -dy), min(height, height - dy)):
                for x in range(max(0, -dx), min(width, width - dx)):
                    product = first[:, :, y, x] * second[:, :, y + dy, x + dx]
                    result[:, :, dy + reach, dx + reach, y, x] = product.unflatten(1, (groups, -1)).mean(2)
    return result.flatten(1, 3)
