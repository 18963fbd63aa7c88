"""Label maps of abstract shapes are repeatable and varied, and have boundaries to learn from."""

from __future__ import annotations

import pytest
import torch

from inverseform_fast.functional import boundary_map
from inverseform_fast.scenes import shapes


def maps(count: int, seed: int = 0, height: int = 96) -> torch.Tensor:
    return shapes.label_maps(count, height, height * 4 // 3, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def many() -> torch.Tensor:
    return maps(12 * len(shapes.KINDS), height=240)


def test_maps_are_class_ids_and_a_function_of_the_seed() -> None:
    found = maps(2 * len(shapes.KINDS))
    assert found.shape == (2 * len(shapes.KINDS), 96, 128)
    assert found.dtype == torch.uint8
    assert found.max() < shapes.CLASSES
    assert found.equal(maps(len(found)))
    assert not found.equal(maps(len(found), seed=1))


@pytest.mark.parametrize("kind", range(len(shapes.KINDS)), ids=lambda kind: shapes.KINDS[kind].__name__.strip("_"))
def test_every_kind_ranges_from_sparse_to_crowded(many: torch.Tensor, kind: int) -> None:
    share = (boundary_map(many[kind :: len(shapes.KINDS)], 1) == 1).float().mean((1, 2))
    assert (share > 0).float().mean() > 0.8
    assert share.max() < 0.6
    assert share.max() > 3 * share[share > 0].min()


def test_zero_maps_may_be_asked_for() -> None:
    assert maps(0).shape == (0, 96, 128)
