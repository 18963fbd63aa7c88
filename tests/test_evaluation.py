"""Evaluation scores images of any size, and refuses a data set without the model's tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from inverseform_fast.scenes.street import CLASSES
from inverseform_fast.segmentation.datasets import Sample, Scenes
from inverseform_fast.segmentation.evaluation import evaluate, predict
from inverseform_fast.segmentation.models import SegmentationModel, build_model
from inverseform_fast.segmentation.tasks import SemanticTask
from inverseform_fast.segmentation.transforms import denormalize


@pytest.fixture
def model() -> SegmentationModel:
    torch.manual_seed(0)
    return build_model("pyramid", "test_resnet", Scenes("val", size=(8, 8), length=1).tasks)


class _MixedSizes(Scenes):
    """A data set of scenes, every third of which is smaller."""

    def read(self, index: int) -> Sample:
        sample = super().read(index)
        return {name: value[..., :30, :] if index % 3 == 0 else value for name, value in sample.items()}


def test_images_of_several_sizes_are_scored_whatever_the_batch_size(model: SegmentationModel) -> None:
    dataset = _MixedSizes("val", size=(48, 64), length=7)
    counts: list[int] = []
    one = evaluate(model, dataset, batch_size=1)
    many = evaluate(model, dataset, batch_size=4, on_images=counts.append)
    assert many == pytest.approx(one, nan_ok=True, abs=1e-3)
    assert sum(counts) == 7
    assert model.training


class _Oracle(SegmentationModel):
    """A model that reads the class off the red channel, and remembers the sizes of the images that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.seen.append(tuple(inputs["image"].shape))
        red = denormalize(inputs["image"])[:, :1].long()
        return {"semantic": self.scale * -(red - torch.arange(11).view(1, -1, 1, 1)).abs().float()}


class _RedIsTheClass(Scenes):
    def read(self, index: int) -> Sample:
        labels = super().read(index)["semantic"].clamp(max=10)
        return {"image": labels.expand(3, -1, -1).clone(), "semantic": labels}


def test_images_and_targets_are_resized_as_asked() -> None:
    dataset, oracle = _RedIsTheClass("val", size=(20, 30), length=3), _Oracle()
    assert evaluate(oracle, dataset)["miou"] == 1
    assert evaluate(oracle, dataset, size=(40, 60), batch_size=2)["pixel_accuracy"] > 0.6  # colours mix at borders
    assert oracle.seen == [(3, 3, 20, 30), (2, 3, 40, 60), (1, 3, 40, 60)]


def test_a_prediction_is_the_most_likely_class_at_the_size_asked(model: SegmentationModel) -> None:
    image = torch.randn(2, 3, 32, 48)
    tasks = Scenes("val", size=(8, 8), length=1).tasks
    classes = predict(model, {"image": image}, tasks, (64, 96))["semantic"]
    with torch.no_grad():
        logits = model.eval()({"image": image})["semantic"]
    expected = torch.nn.functional.interpolate(logits, scale_factor=8, mode="bilinear").argmax(1)
    assert torch.equal(classes, expected)


def test_a_data_set_must_have_the_tasks_of_the_model(model: SegmentationModel) -> None:
    dataset = Scenes("val", size=(24, 32), length=1)
    for task, message in (
        (SemanticTask(classes=("sky", "road")), r"must have the classes \('sky', 'road'\) of the task semantic, got "),
        (SemanticTask(name="parts", classes=("sky", "road")), "must have the task parts, got semantic"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(model, dataset, tasks={task.name: task})
    other_colors = SemanticTask(classes=tuple(dataset.tasks["semantic"].classes))  # type: ignore[attr-defined]
    assert evaluate(model, dataset, tasks={"semantic": other_colors})


class _Computes(Metric):
    """A metric that computes whatever it is given."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Sees nothing."""

    def compute(self) -> Any:
        return self.result


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([torch.ones(())], "the metric of the task a must compute a dict of scalars, got Tensor"),
        ([{"iou": torch.ones(3)}], "the metric iou of the task a must be a scalar, got 3 values"),
        ([{"b/iou": 1.0}, {"iou": 1.0}], "metrics must have names of their own, but two are called b/iou"),
    ],
)
def test_a_metric_that_is_no_dict_of_scalars_is_named(results: list[Any], message: str) -> None:
    class Computing(SemanticTask):
        def metrics(self) -> Metric:
            return _Computes(results["ab".index(self.name)])

    class Twice(Scenes):
        def __init__(self) -> None:
            super().__init__("val", size=(16, 16), length=1)
            self.tasks = {name: Computing(name=name, classes=tuple(CLASSES)) for name in "ab"[: len(results)]}

        def read(self, index: int) -> Sample:
            sample = super().read(index)
            return {"image": sample["image"], **dict.fromkeys(self.tasks, sample["semantic"])}

    dataset = Twice()
    with pytest.raises(ValueError, match=message):
        evaluate(build_model("pyramid", "test_resnet", dataset.tasks), dataset)
