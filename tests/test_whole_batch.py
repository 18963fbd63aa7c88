"""A part of a batch draws what its samples draw in the whole batch, whatever kind of dropout draws."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from transformers.models.segformer.modeling_segformer import SegformerDropPath

from inverseform_fast.segmentation.training.whole_batch import WholeBatch

SEEDS = [(0, 2, position) for position in range(6)]
LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": nn.Dropout(0.5),
    "dropout of channels": nn.Dropout2d(0.5),
    "alpha dropout": nn.AlphaDropout(0.5),
    "in place": lambda x: F.dropout(x * 1, 0.5, inplace=True),
    "stochastic depth of timm": DropPath(0.5),
    "stochastic depth of transformers": SegformerDropPath(0.5),
    "noise": lambda x: x + torch.randn(len(x), 8, 1, 1),
    "windows": lambda x: F.dropout(x.reshape(-1, 2, 4, 4), 0.5).reshape(x.shape),
}


def passed(x: Tensor, layer: Callable[[Tensor], Tensor], parts: int) -> tuple[Tensor, Tensor]:
    """The results of a layer, called twice, and the gradients, of a batch that is taken in strided parts."""
    x = x.clone().requires_grad_()
    result = torch.empty_like(x)
    for part in range(parts):
        torch.manual_seed(5)
        with WholeBatch(SEEDS[part::parts], False):
            result[part::parts] = layer(layer(x[part::parts]))
    result.square().sum().backward()
    assert x.grad is not None
    return result.detach(), x.grad


@pytest.mark.parametrize("name", LAYERS)
def test_parts_draw_as_the_whole(name: str) -> None:
    x = torch.randn(6, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = passed(x, LAYERS[name], 1)
    assert not torch.equal(whole[0], x)
    for parts in (2, 3, 6):
        for actual, expected in zip(passed(x, LAYERS[name], parts), whole, strict=True):
            torch.testing.assert_close(actual, expected)
    changed = whole[0] - x if name == "noise" else whole[0] / x
    assert len({tuple(row.flatten().tolist()) for row in changed}) > 1  # samples differ


def test_each_draw_is_another_one() -> None:
    with WholeBatch(SEEDS, False):
        first, second = (F.dropout(torch.ones(6, 50)) for _ in range(2))
    assert not torch.equal(first, second)


def test_what_samples_share_is_the_same_for_every_part() -> None:
    draws = []
    for part in (SEEDS[:2], SEEDS[2:4]):
        torch.manual_seed(1)
        with WholeBatch(part, False):
            draws.append([F.dropout(torch.ones(2, 9)), torch.rand(3), torch.rand(2, generator=torch.Generator())])
        draws[-1].append(torch.rand(1))  # after the pass
    assert not torch.equal(draws[0][0], draws[1][0])
    for first, second in zip(draws[0][1:], draws[1][1:], strict=True):
        assert torch.equal(first, second)


def test_nothing_is_drawn_where_nothing_is_dropped() -> None:
    x = torch.ones(6, 4)
    with WholeBatch(SEEDS, False) as mode:
        assert F.dropout(x, 0.0) is x or torch.equal(F.dropout(x, 0.0), x)
        assert torch.equal(F.dropout(x, 0.5, training=False), x)
        assert torch.equal(nn.Dropout(0.5).eval()(x), x)
        assert mode.draws == 0
