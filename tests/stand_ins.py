"""Tests of models for many tasks need tasks that are small: a number of values per pixel, and their L1 loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MetricCollection

from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.tasks import Task
from inverseform_fast.segmentation.tasks.base import Kind


@dataclass(frozen=True, kw_only=True)
class Values(Task):
    """Predicts ``count`` numbers per pixel; the target is (count, H, W)."""

    kind: ClassVar[Kind] = "map"
    count: int = 1

    @property
    def channels(self) -> int:
        return self.count

    def loss(self, config: TrainConfig) -> nn.Module:
        return _L1(self)

    def decode(self, prediction: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(prediction.float(), size, mode="bilinear", align_corners=False)

    def metrics(self) -> MetricCollection:
        return MetricCollection({"mae": MeanAbsoluteError()})

    def draw(self, values: Tensor) -> Tensor:
        return (255 * values[:1].clamp(0, 1)).to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0)


class _L1(nn.Module):
    def __init__(self, task: Values) -> None:
        super().__init__()
        self.task = task

    def forward(self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        target = targets[self.task.name]
        prediction = self.task.decode(predictions[self.task.name], (target.shape[-2], target.shape[-1]))
        return {"total": (prediction - target).abs()[target != self.task.void].mean()}


def values(**counts: int) -> dict[str, Task]:
    """Makes a task for each name, with so many numbers per pixel."""
    return {name: Values(name=name, count=count) for name, count in counts.items()}
