"""Training the head on known features, and scoring it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from benchmarks.studies.headless.arms import Loss
from benchmarks.studies.headless.features import Frames, FrozenModel
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.tasks import Task
from inverseform_fast.segmentation.training.optim import build_optimizer, learning_rate
from inverseform_fast.segmentation.training.sampling import StepBatches


def train_head(config: TrainConfig, tasks: Mapping[str, Task], frames: Frames, loss: Loss) -> tuple[FrozenModel, float]:
    """A trained model, and the CPU seconds of its steps. Batches, mirroring and weights are those of ``config.seed``.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    model = FrozenModel(config, tasks).train()
    optimizer = build_optimizer(model.model, config)
    begin = time.process_time()
    for step, batch in enumerate(StepBatches(len(frames.labels), config)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        features, labels = frames.batch([index for index, _ in batch], [bool(seed & 1) for _, seed in batch])
        total = loss(model(features), labels)
        if not total.isfinite():
            raise FloatingPointError(f"the loss is not finite at step {step}: {total.item()}")
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return model, time.process_time() - begin


def scored(model: FrozenModel, task: Task, frames: Frames, batch_size: int) -> dict[str, float]:
    """The task's metrics over all frames, none mirrored."""
    values: dict[str, float] = measured(model, task, frames, batch_size).compute()
    return values


@torch.no_grad()
def measured(model: FrozenModel, task: Task, frames: Frames, batch_size: int) -> Metric | MetricCollection:
    """The task's metrics, which have seen all frames, none mirrored."""
    metric = task.metrics()
    for prediction, labels in predicted(model, task.name, frames, batch_size):
        metric.update(task.decode(prediction, model.size), labels.long())
    return metric


@torch.no_grad()
def predicted(model: FrozenModel, name: str, frames: Frames, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of what the model predicts for a task, and of labels, of all frames in order, none mirrored."""
    model.eval()
    for indices in torch.arange(len(frames.labels)).split(batch_size):
        features, labels = frames.batch(indices.tolist(), [False] * len(indices))
        yield model(features)[name], labels
