"""Tasks survive files, and a bad one is named."""

from __future__ import annotations

import pickle

import pytest
import torch

from inverseform_fast.segmentation.tasks import SemanticTask, choose_tasks, task_from_dict, task_to_dict
from inverseform_fast.segmentation.tasks.base import Headline

NAME = "name must be an identifier other than image, scale, boundary, total and the attributes of nn.ModuleDict"
TASK = SemanticTask(classes=("sky", "road"), colors=((1, 2, 3), (4, 5, 6)), void=7)


def test_a_task_survives_plain_values_and_pickling() -> None:
    values = task_to_dict(TASK)
    assert values["type"] == "semantic"
    for again in (task_from_dict(values), pickle.loads(pickle.dumps(TASK))):
        assert again == TASK
        assert vars(again) == vars(TASK)


def test_tasks_that_differ_in_their_colors_alone_are_equal() -> None:
    assert SemanticTask(classes=("sky", "road")) == SemanticTask(classes=("sky", "road"), colors=TASK.colors)
    assert SemanticTask(classes=("sky", "road")) != TASK
    assert len(set(SemanticTask(classes=tuple("abcdefgh")).colors)) == 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "image"}, f"{NAME}, got 'image'"),
        ({"name": "a/b"}, f"{NAME}, got 'a/b'"),
        ({"name": "train"}, f"{NAME}, got 'train'"),
        ({"classes": ("car", "car")}, r"classes must have names of their own, got \('car', 'car'\)"),
        ({"colors": ((0, 0, 0),)}, "colors must be 2, one for each class, got 1"),
    ],
)
def test_a_bad_field_is_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SemanticTask(**{"classes": ("sky", "road"), **fields})


def test_tasks_are_chosen_in_the_order_of_the_data_set() -> None:
    tasks = {name: SemanticTask(name=name, classes=("a", "b")) for name in ("one", "two", "three")}
    assert list(choose_tasks(tasks, {})) == ["one", "two", "three"]
    assert list(choose_tasks(tasks, {"three": 1.0, "one": 2.0})) == ["one", "three"]
    with pytest.raises(ValueError, match=r"tasks must be tasks of the data set \(one, two, three\), got four"):
        choose_tasks(tasks, {"one": 1.0, "four": 1.0})


def test_a_metric_in_print() -> None:
    assert Headline("m").text(0.12345) == "0.123"
    assert Headline("m", scale=100, digits=1).text(0.12345) == "12.3"
    assert Headline("m").text(torch.nan) == "-"


def test_an_unknown_kind_is_named() -> None:
    class Heat(SemanticTask):
        kind = "heat"  # type: ignore[assignment]

    with pytest.raises(ValueError, match="kind of Heat must be one of labels, depth, normals, map, got 'heat'"):
        Heat(classes=("a", "b"))
