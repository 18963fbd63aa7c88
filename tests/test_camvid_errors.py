"""The study of a model's errors finds that displaced boundaries are displaced, and that others are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.common.results import Json
from benchmarks.studies import camvid_errors
from inverseform_fast import InverseTransformNet, functional, homography
from inverseform_fast.functional import boundary_map
from inverseform_fast.scenes.street import label_maps
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import build_dataset
from inverseform_fast.segmentation.training.run import train

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def true() -> torch.Tensor:
    maps = label_maps(2, 224, 224, torch.Generator().manual_seed(3))
    return (boundary_map(maps.long()) == 1).float()[:, None]


def test_a_displaced_boundary_is_brought_back(true: torch.Tensor) -> None:
    a = torch.zeros(len(true), 8)
    a[:, 0], a[:, 3] = 0.06, -0.04  # 8 px
    predicted = functional.homography_warp(true, homography.exp(a), (224, 224))
    for row in camvid_errors.overlaps(InverseTransformNet.compact(), predicted, true):
        assert row["as_predicted"] < 0.5
        assert row["by_estimate"] > row["as_predicted"] + 0.3
        assert row["by_best"] > row["as_predicted"] + 0.3
        assert row["estimated_px"] == pytest.approx(8, rel=0.25)


def test_a_boundary_with_a_part_missing_is_not(true: torch.Tensor) -> None:
    predicted = true.clone()
    predicted[..., :112] = 0
    for row in camvid_errors.overlaps(InverseTransformNet.compact(), predicted, true):
        assert row["as_predicted"] - 1e-6 <= row["by_best"] < row["as_predicted"] + 0.15


def test_tiles_without_a_boundary_are_left_out(true: torch.Tensor) -> None:
    nothing = torch.zeros_like(true)
    assert list(camvid_errors.overlaps(InverseTransformNet.compact(), true, nothing)) == []


def test_shares_by_distance() -> None:
    mine, others = torch.zeros(2, 1, 40, dtype=torch.bool)
    others[0, 0] = True
    mine[0, [0, 1, 2, 5, 6, 16, 17, 30]] = True
    assert camvid_errors.shares_by_distance(mine, others) == [2 / 8, 2 / 8, 2 / 8, 2 / 8]


def test_gradients_are_compared_with_those_of_the_losses(true: torch.Tensor) -> None:
    labels = label_maps(1, 224, 224, torch.Generator().manual_seed(5)).long()
    generator = torch.Generator().manual_seed(0)
    predictions = {
        "semantic": torch.randn(1, 11, 56, 56, generator=generator),
        "boundary": torch.randn(1, 1, 56, 56, generator=generator),
    }
    row = camvid_errors.gradients(predictions, labels, (224, 224))
    logits = predictions["semantic"].requires_grad_()
    soft = functional.soft_boundary_map(logits, (224, 224)).logit(eps=1e-6)
    term = camvid_errors.InverseFormLoss(resize=(224, 224))(soft, boundary_map(labels)[:, None])
    (mine,) = torch.autograd.grad(term, logits)
    (other,) = torch.autograd.grad(functional.segmentation_loss(logits, labels), logits)
    assert row["headless_cosine"] == pytest.approx(float((mine * other).sum() / mine.norm() / other.norm()), abs=1e-5)
    assert row["headless_ratio"] == pytest.approx(float(mine.norm() / other.norm()), rel=1e-4)
    assert -1 <= row["head_cosine"] <= 1


def test_a_trained_model_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: Json = {"size": [224, 224], "length": 2}
    train(
        TrainConfig(
            out=str(tmp_path), data_options=options, steps=2, batch_size=2, crop=(64, 64), loss="ce", boundary_head=True
        )
    )
    monkeypatch.setattr(camvid_errors, "SIZES", ((224, 224),))
    monkeypatch.setattr(camvid_errors, "build_dataset", lambda *_: build_dataset("scenes", "test", **options))
    result = camvid_errors.measure(tmp_path, None, "scenes", stride=1)
    (row,) = result["rows"]
    assert sum(result["missing"]) == pytest.approx(1)
    assert sum(result["false"]) == pytest.approx(1)
    assert row["tiles"] == 2
    assert 0 <= row["as_predicted"] <= 1e-6 + row["by_best"] <= 1
