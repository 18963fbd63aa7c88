"""The tasks of parts, edges, saliency, normals and depth: losses by their definitions, decoding and pictures."""

from __future__ import annotations

import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import inverseform_fast as iff
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.tasks import (
    TASKS,
    DepthTask,
    EdgeTask,
    NormalsTask,
    PartsTask,
    SaliencyTask,
    Task,
    task_from_dict,
    task_to_dict,
)
from inverseform_fast.segmentation.training.alignment import TargetAligner
from inverseform_fast.segmentation.training.criterion import Criterion

SIZE = (24, 36)
CONFIG = TrainConfig(loss="ce")
EVERY: list[Task] = [PartsTask(), EdgeTask(), EdgeTask(balance=None), SaliencyTask(), NormalsTask(), DepthTask()]
every_task = pytest.mark.parametrize("task", EVERY, ids=["parts", "edges", "balanced", "saliency", "normals", "depth"])


def target_of(task: Task, seed: int = 0) -> Tensor:
    """Draws two targets of a task with a void corner."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, *SIZE) if task.kind == "normals" else (2, *SIZE)
    target = torch.randn(shape, generator=generator)
    if task.kind == "labels":
        target = torch.randint(task.channels, shape, generator=generator)
    elif task.kind == "map":
        target = (target > 1).float()
    elif task.kind == "normals":
        target = F.normalize(target, dim=1)
    else:
        target = target.exp()
    target[..., :5, :7] = task.void
    return target


def prediction_of(task: Task, size: tuple[int, int] = (6, 9)) -> Tensor:
    return torch.randn(2, task.channels, *size, generator=torch.Generator().manual_seed(7), requires_grad=True)


def loss_of(task: Task, prediction: Tensor, target: Tensor, config: TrainConfig = CONFIG, step: int = 0) -> Any:
    return task.loss(config)({task.name: prediction}, {task.name: target}, step)


def loss_by_definition(task: Task, prediction: np.ndarray, target: np.ndarray) -> float:
    """Computes the loss in float64 from a prediction (N, C, H, W) of the target's size."""
    if isinstance(task, PartsTask):
        log_p = prediction - np.log(np.exp(prediction).sum(1, keepdims=True))
        pixels = [log_p[n, target[n, y, x], y, x] for n, y, x in np.argwhere(target != 255)]
        return -float(np.mean(pixels))
    if isinstance(task, NormalsTask):
        unit = prediction / np.sqrt((prediction**2).sum(1, keepdims=True))
        return float(np.abs(unit - target)[target != 255].mean())
    if isinstance(task, DepthTask):
        return float(np.abs(prediction[:, 0] - target)[target != 0].mean())
    p = 1 / (1 + np.exp(-prediction[:, 0]))
    ones, zeros = -np.log(p[target == 1]), -np.log(1 - p[target == 0])
    weight = task.balance if isinstance(task, EdgeTask) else None
    weight = len(zeros) / (len(ones) + len(zeros)) if weight is None else weight
    return float((weight * ones.sum() + (1 - weight) * zeros.sum()) / (len(ones) + len(zeros)))


@every_task
def test_the_loss_is_its_definition_and_has_its_gradient(task: Task) -> None:
    prediction, target = prediction_of(task), target_of(task)
    terms = loss_of(task, prediction, target)
    larger = F.interpolate(prediction.detach().double(), SIZE, mode="bilinear", align_corners=False)
    assert float(terms["total"].detach()) == pytest.approx(
        loss_by_definition(task, larger.numpy(), target.numpy()), rel=1e-5
    )
    terms["total"].backward()
    assert prediction.grad is not None
    moved = torch.randn(prediction.shape, generator=torch.Generator().manual_seed(1))
    ahead, behind = (loss_of(task, (prediction + s * moved).detach(), target)["total"] for s in (1e-3, -1e-3))
    assert float((prediction.grad * moved).sum()) == pytest.approx(float(ahead - behind) / 2e-3, rel=0.02, abs=1e-3)


@every_task
def test_a_target_that_is_all_void_costs_nothing_and_gives_a_zero_gradient(task: Task) -> None:
    prediction = prediction_of(task)
    total = loss_of(task, prediction, torch.full_like(target_of(task), task.void))["total"]
    total.backward()
    assert total == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_batch_of_one_kind_of_pixels_is_finite(value: float) -> None:
    for task in (EdgeTask(), SaliencyTask()):
        prediction, target = prediction_of(task), torch.full((2, *SIZE), value)
        total = loss_of(task, prediction, target)["total"]
        total.backward()
        assert prediction.grad is not None
        assert prediction.grad.isfinite().all()
        expected = loss_by_definition(task, resized(prediction).detach().double().numpy(), target.numpy())
        assert float(total.detach()) == pytest.approx(expected, rel=1e-5)


def resized(prediction: Tensor) -> Tensor:
    return F.interpolate(prediction, SIZE, mode="bilinear", align_corners=False)


@every_task
def test_predictions_of_half_precision_are_taken(task: Task) -> None:
    prediction, target = prediction_of(task), target_of(task)
    exact = loss_of(task, prediction, target)["total"]
    assert float(loss_of(task, prediction.bfloat16(), target)["total"]) == pytest.approx(float(exact), rel=0.02)


@every_task
def test_a_perfect_prediction_has_a_perfect_score_and_a_picture_like_the_truth(task: Task) -> None:
    target = target_of(task).masked_fill(target_of(task) == task.void, 1)
    if task.kind == "labels":
        logits = 20 * F.one_hot(target, task.channels).permute(0, 3, 1, 2).float()
    elif task.kind == "map":
        logits = 30 * (2 * target[:, None] - 1)
    else:
        target = F.normalize(target, dim=1) if task.kind == "normals" else target
        logits = 3 * target if task.kind == "normals" else target[:, None]
    decoded = task.decode(logits, SIZE)
    torch.testing.assert_close(decoded, target, rtol=0, atol=1e-5)
    metric = task.metrics()
    metric.update(decoded, target)
    values = metric.compute()
    assert set(task.headlines()) >= set(values)
    best = {"mean": 0, "median": 0.005, "rmse": 0, "log_rmse": 0}
    for name, value in values.items():
        assert value == pytest.approx(best.get(name, 1), abs=0.03), name
    for prediction, truth in zip(decoded, target, strict=True):
        pictures = [task.draw(values) for values in (prediction, truth)]
        assert pictures[0].dtype == torch.uint8
        assert pictures[0].shape == (*SIZE, 3)
        assert (pictures[0].int() - pictures[1].int()).abs().max() <= 1
        assert len(pictures[0].flatten(0, 1).unique(dim=0)) > 1


@every_task
def test_void_has_a_color_of_its_own(task: Task) -> None:
    picture = task.draw(target_of(task)[0])
    void = picture[:5, :7].reshape(-1, 3).unique(dim=0)
    assert len(void) == 1
    assert not (picture[5:] == void[0]).all(-1).any()


@every_task
def test_a_prediction_is_decoded_at_the_size_asked(task: Task) -> None:
    decoded = task.decode(prediction_of(task).bfloat16(), (13, 17))
    assert decoded.shape == ((2, 3, 13, 17) if task.kind == "normals" else (2, 13, 17))
    assert decoded.dtype == (torch.int64 if task.kind == "labels" else torch.float32)


@every_task
def test_a_task_survives_plain_values_and_pickling(task: Task) -> None:
    assert type(task) is TASKS[task.name]
    for again in (task_from_dict(task_to_dict(task)), pickle.loads(pickle.dumps(task))):
        assert again == task
        assert vars(again) == vars(task)


@every_task
def test_bad_shapes_are_named(task: Task) -> None:
    prediction, target = prediction_of(task), target_of(task)
    with pytest.raises(ValueError, match=f"prediction of {task.name} must have shape|logits must"):
        loss_of(task, prediction[0], target)
    with pytest.raises(ValueError, match=rf"target of {task.name} must have shape \(2, .*'H', 'W'\), got|labels must"):
        loss_of(task, prediction, target[:1])
    if not isinstance(task, PartsTask):
        with pytest.raises(ValueError, match=f"prediction of {task.name} must have"):
            loss_of(task, torch.cat((prediction, prediction), 1), target)


@pytest.mark.parametrize("task", [EdgeTask(), SaliencyTask()])
def test_a_target_that_would_be_rounded_is_named(task: Task) -> None:
    with pytest.raises(ValueError, match=rf"target of {task.name} must hold 0, 1 and 255 \(void\), got 0.5"):
        loss_of(task, prediction_of(task), target_of(task).masked_fill(target_of(task) == 1, 0.5))


def test_another_void_is_as_good() -> None:
    prediction, target = prediction_of(EdgeTask()), target_of(EdgeTask())
    usual = loss_of(EdgeTask(), prediction, target)["total"]
    assert loss_of(EdgeTask(void=-1), prediction, target.masked_fill(target == 255, -1))["total"] == usual


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"balance": 1.5}, "balance must be between 0 and 1, got 1.5"),
        ({"balance": math.nan}, "balance must be between 0 and 1, got nan"),
        ({"matching": "greedy"}, "matching must be 'one-to-one' or 'dilation', got 'greedy'"),
    ],
)
def test_a_bad_field_of_edges_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EdgeTask(**fields)


def test_edges_that_are_balanced_otherwise_are_the_same_task() -> None:
    assert EdgeTask(balance=0.8, matching="dilation") == EdgeTask()


# InverseForm on edges


@pytest.fixture(scope="module")
def lines() -> tuple[Tensor, Tensor]:
    """Logits of a line, and the target, which lies 6 pixels beside it."""
    target = torch.zeros(1, 224, 224)
    target[:, :, 100:104] = target[:, 50:54] = 1
    return 16 * target.roll(6, 2)[:, None] - 8, target


def weighed(lines: tuple[Tensor, Tensor], weight: float, **options: Any) -> tuple[float, dict[str, Tensor]]:
    """The total of a criterion where the edges have a weight, and the terms of the edges."""
    task = EdgeTask()
    config = TrainConfig(tasks={"edges": weight}, **options)
    terms = Criterion(config, {"edges": task})({"edges": lines[0]}, {"edges": lines[1]}, 3)
    return float(terms["total"]), {name.removeprefix("edges/"): value for name, value in terms.items()}


@pytest.mark.parametrize(
    ("options", "gamma"),
    [({"loss": "inverseform"}, 0.3), ({"loss": "ce", "gamma": 2.0}, 2.0), ({"loss": "inverseform", "gamma": 1.0}, 1.0)],
)
@pytest.mark.parametrize("weight", [1.0, 50.0])
def test_inverseform_has_its_own_weight(
    lines: tuple[Tensor, Tensor], options: dict[str, Any], gamma: float, weight: float
) -> None:
    total, terms = weighed(lines, weight, **options)
    alone = iff.InverseFormLoss()(lines[0], lines[1][:, None])
    assert terms["inverseform"] == alone > 0.01
    assert terms["bce"] == loss_of(EdgeTask(), *lines)["total"]
    assert total == pytest.approx(weight * float(terms["bce"]) + gamma * float(alone), rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"loss": "ce"}, {"loss": "boundary"}, {"loss": "inverseform", "gamma": 0.0}, {"gamma": 1, "inverseform_start": 4}],
)
def test_inverseform_is_off_unless_it_is_asked_for(lines: tuple[Tensor, Tensor], options: dict[str, Any]) -> None:
    total, terms = weighed(lines, 2.0, **options)
    assert set(terms) == {"total", "bce"}
    assert total == pytest.approx(2 * float(terms["bce"]))


def test_inverseform_on_edges_ignores_void_and_takes_a_void_batch(lines: tuple[Tensor, Tensor]) -> None:
    task = EdgeTask(void=-1)
    config = TrainConfig(gamma=1.0)
    target = lines[1].clone()
    target[..., 150:] = -1
    logits = lines[0].clone().requires_grad_()
    terms = loss_of(task, logits, target, config)
    other = logits.detach().clone()
    other[..., 150:] = 9
    assert loss_of(task, other, target, config)["inverseform"] == terms["inverseform"]
    void = loss_of(task, logits, torch.full_like(target, -1), config)
    void["total"].backward()
    assert void["total"] == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_no_network_is_made_without_inverseform() -> None:
    assert not [m for m in EdgeTask().loss(CONFIG).modules() if isinstance(m, iff.InverseFormLoss)]
    assert isinstance(EdgeTask().loss(CONFIG), nn.Module)


def test_only_classes_are_moved() -> None:
    tasks = {task.name: task for task in (PartsTask(), EdgeTask(), SaliencyTask(), NormalsTask(), DepthTask())}
    with pytest.raises(ValueError, match="align_labels needs a task that has an aligner, such as semantic, got parts"):
        TargetAligner(TrainConfig(align_labels=True), tasks)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_the_guide_lists_every_task_and_metric() -> None:
    guide = (Path(__file__).parents[1] / "docs/guide/tasks.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` (.*)\|$", guide, re.MULTILINE))
    assert rows.keys() == TASKS.keys()
    for task in EVERY:
        names = {name for name in task.metrics().compute() if not name.startswith("iou/")}
        assert {name for name in names if f"`{name}`" not in rows[task.name]} == set()
