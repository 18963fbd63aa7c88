"""The study of predictions has a row for each kind of map, and trains no model twice."""

from __future__ import annotations

from copy import copy
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.studies.predictions import kept, rows
from inverseform_fast.inverse_net.predictions import KINDS, Predictions
from inverseform_fast.nets import Align
from inverseform_fast.scenes import street


def test_a_row_for_each_kind(tmp_path: Path) -> None:
    labels = street.label_maps(2, 64, 80, torch.Generator().manual_seed(0))
    predictions = Predictions(torch.zeros(2, 2, 64, 80, dtype=torch.uint8), labels)
    found = rows(Align(tile=32).requires_grad_(False), {"nothing": predictions}, 8)
    assert [(row["model"], row["kind"]) for row in found] == [("nothing", kind) for kind in KINDS[1:]]
    assert all(row["displaced"] == pytest.approx(6.5, rel=0.1) and 0 < row["tiles"] <= 8 for row in found)


def test_predictions_are_kept(tmp_path: Path) -> None:
    first, second = (Predictions(torch.full((1, 2, 3, 4), n, dtype=torch.uint8), torch.zeros(1, 3, 4)) for n in (1, 2))
    for predictions in (first, second):
        assert torch.equal(kept(tmp_path / "new/model.pt", partial(copy, predictions)).maps, first.maps)
