"""Losses of the dense tasks on parts of a batch are those of the whole batch, on processes and micro-batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from many_processes import launch
from torch import Tensor

from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.processes import joined
from inverseform_fast.segmentation.tasks import DepthTask, EdgeTask, NormalsTask, PartsTask, SaliencyTask, Task
from inverseform_fast.segmentation.training.criterion import Criterion

IMAGES, SIZE = 6, (32, 48)
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        PartsTask(),
        EdgeTask(),
        EdgeTask(name="balanced", balance=None),
        SaliencyTask(),
        NormalsTask(),
        DepthTask(),
    )
}


def criterion(net: str) -> Criterion:
    config = TrainConfig(loss="inverseform", gamma=2.0, net=net, resize=(64, 64), tasks=dict.fromkeys(TASKS, 0.5))
    return Criterion(config, TASKS)


def whole_batch(task: Task, void: bool) -> tuple[Tensor, Tensor]:
    """Predictions and targets of all images: the first two are all void, the third has ones alone, or all are void."""
    generator = torch.Generator().manual_seed(3)
    prediction = torch.randn(IMAGES, task.channels, 8, 12, generator=generator)
    target = torch.randn((IMAGES, 3, *SIZE) if task.kind == "normals" else (IMAGES, *SIZE), generator=generator)
    if task.kind == "labels":
        target = (10 * target).long() % task.channels
    elif task.kind == "normals":
        target = F.normalize(target, dim=1)
    elif task.kind == "map":
        target = F.avg_pool2d(target[:, None], 9, 1, 4)[:, 0].gt(0.1).float()
        target[2] = 1
    else:
        target = target.exp()
    target[3, ..., :20, :] = task.void
    target[:2] = task.void
    return prediction, torch.full_like(target, task.void) if void else target


def learned(net: str, void: bool, images: slice = slice(IMAGES), parts: int = 1) -> dict[str, Tensor]:
    """The mean of the parts' terms, and the gradients that they leave together, by task."""
    loss = criterion(net)
    batches = {name: whole_batch(task, void) for name, task in TASKS.items()}
    predictions = {name: prediction[images].clone().requires_grad_() for name, (prediction, _) in batches.items()}
    targets = {name: target[images] for name, (_, target) in batches.items()}
    split = [{name: value[number::parts] for name, value in targets.items()} for number in range(parts)]
    counts = [loss.count(split, 0)] if parts > 1 else []
    found: dict[str, Tensor] = {}
    for number, part in enumerate(split):
        # A stage of edges costs what its task says without InverseForm.
        own = {name: value[number::parts] for name, value in predictions.items()}
        terms = loss(own | {"edges/first": own["edges"]}, part, 0, *counts)
        (terms["total"] / parts).backward()
        found = {name: found.get(name, 0) + term.detach() / parts for name, term in terms.items()}
    gradients = {name: prediction.grad for name, prediction in predictions.items() if prediction.grad is not None}
    return found | {f"gradient of {name}": gradient for name, gradient in gradients.items()}


def _on_processes(net: str, void: bool, parts: int, result: str) -> None:
    with joined("cpu", 60) as processes:
        share = IMAGES // processes.size
        found = learned(net, void, slice(share * processes.rank, share * (processes.rank + 1)), parts)
        gathered: list[Any] = [None] * processes.size
        dist.all_gather_object(gathered, found)
        if processes.is_first:
            torch.save([{name: each[name] for name in found} for each in gathered], result)


@pytest.mark.parametrize("void", [False, True], ids=["uneven", "void"])
@pytest.mark.parametrize(("processes", "parts"), [(2, 1), (3, 1), (3, 2), (2, 3)])
def test_processes_and_parts_are_the_whole_batch(
    net: str, tmp_path: Path, processes: int, parts: int, void: bool
) -> None:
    ended = launch(processes, _on_processes, net, void, parts, f"{tmp_path}/found.pt", logs=tmp_path)
    assert [process.code for process in ended] == [0] * processes, ended
    found = torch.load(tmp_path / "found.pt")
    for name, expected in learned(net, void).items():
        own = torch.stack([each[name] for each in found])
        # DDP averages gradients: each process's is its images', times the number of processes.
        actual = own.flatten(0, 1) / processes if name.startswith("gradient") else own.mean(0)
        torch.testing.assert_close({name: actual}, {name: expected}, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_parts_in_one_process_are_the_whole_batch(net: str, parts: int) -> None:
    torch.testing.assert_close(learned(net, False, parts=parts), learned(net, False), rtol=1e-5, atol=1e-6)


def test_each_part_alone_would_be_another_loss(net: str) -> None:
    """So the other tests see whether parts are added up."""
    whole = learned(net, False)
    halves = [learned(net, False, images) for images in (slice(0, 2), slice(2, IMAGES))]
    for name in TASKS:
        mean = sum(each[f"{name}/total"] for each in halves) / 2
        assert abs(mean - whole[f"{name}/total"]) > 0.02 * whole[f"{name}/total"], name
    edges = [each["edges/inverseform"] for each in (whole, *halves)]
    assert abs((edges[1] + edges[2]) / 2 - edges[0]) > 0.02 * edges[0]
