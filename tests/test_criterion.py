"""The loss of a training names its terms by task, weighs the tasks, and obeys the options of InverseForm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_runs import tiny_config

import inverseform_fast as iff
from inverseform_fast.segmentation.datasets import Scenes
from inverseform_fast.segmentation.tasks import SemanticTask
from inverseform_fast.segmentation.training.criterion import Criterion

TASK = SemanticTask(classes=tuple(map(str, range(11))))


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return Scenes("train", size=(48, 64), length=1)[0]["semantic"].as_subclass(Tensor)[None].expand(2, -1, -1).long()


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(2, 11, 12, 16, generator=torch.Generator().manual_seed(0))


def terms(logits: Tensor, labels: Tensor, net: str, step: int = 0, **options: Any) -> dict[str, Tensor]:
    criterion = Criterion(tiny_config(Path(), net, **options), {"semantic": TASK})
    return criterion({"semantic": logits}, {"semantic": labels}, step)


def test_the_terms_are_those_of_the_library(logits: Tensor, labels: Tensor, net: str) -> None:
    term = iff.InverseFormLoss(net)
    expected = iff.BoundaryAwareLoss(beta=2.0, gamma=3.0, radius=1, inverseform=term)(logits, labels)
    found = terms(logits, labels, net, beta=2.0, gamma=3.0, radius=1)
    assert found == {"total": expected.total} | {f"semantic/{name}": x for name, x in expected._asdict().items()}
    alone = terms(logits, labels, net, loss="ce")
    assert alone == dict.fromkeys(("total", "semantic/total", "semantic/segmentation"), expected.segmentation)
    assert terms(logits, labels, net, loss="boundary")["semantic/inverseform"] == 0


def test_inverseform_counts_from_its_start_on(logits: Tensor, labels: Tensor, net: str) -> None:
    criterion = Criterion(tiny_config(Path(), net, inverseform_start=2, gamma=2.0), {"semantic": TASK})
    first, second, third, fourth = (criterion({"semantic": logits}, {"semantic": labels}, step) for step in range(4))
    assert first["semantic/inverseform"] == second["semantic/inverseform"] == 0
    assert third["semantic/inverseform"] == fourth["semantic/inverseform"] > 0
    torch.testing.assert_close(third["total"] - first["total"], 2 * third["semantic/inverseform"])


def test_boundaries_are_resized_as_asked(logits: Tensor, labels: Tensor, net: str) -> None:
    def term(resize: tuple[int, int] | None) -> Tensor:
        return terms(logits, labels, net, resize=resize)["semantic/inverseform"]

    assert term((64, 64)) == term(None)  # the nearest multiples of the tile, 32
    assert term((32, 32)) != term(None)


def test_tasks_are_weighed(logits: Tensor, labels: Tensor, net: str) -> None:
    parts = SemanticTask(name="parts", classes=TASK.classes)
    config = tiny_config(Path(), net, tasks={"semantic": 2.0, "parts": 0.5}, loss="ce")
    predictions = {"semantic": logits, "parts": logits.flip(1)}
    both = Criterion(config, {"semantic": TASK, "parts": parts})(predictions, {"semantic": labels, "parts": labels}, 0)
    torch.testing.assert_close(both["total"], 2 * both["semantic/total"] + 0.5 * both["parts/total"])
    assert both["parts/segmentation"] == terms(logits.flip(1), labels, net, loss="ce")["total"]


def test_a_model_that_predicts_too_little_is_told(logits: Tensor, labels: Tensor, net: str) -> None:
    criterion = Criterion(tiny_config(Path(), net), {"semantic": TASK})
    with pytest.raises(ValueError, match="the model must predict semantic, got segmentation, boundary"):
        criterion({"segmentation": logits, "boundary": logits[:, :1]}, {"semantic": labels}, 0)


def test_a_loss_without_a_total_is_told(logits: Tensor, labels: Tensor, net: str) -> None:
    criterion = Criterion(tiny_config(Path(), net), {"semantic": TASK})
    criterion.losses["semantic"].forward = lambda *args: {"dice": logits.sum(), "focal": logits.sum()}
    with pytest.raises(ValueError, match="the loss of the task semantic must have the term 'total', got dice, focal"):
        criterion({"semantic": logits}, {"semantic": labels}, 0)
