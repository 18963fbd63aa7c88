"""The criterion sums the losses of all tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..tasks import Task


class Criterion(nn.Module):
    """Sums the tasks' losses, weighted by ``config.tasks``; a task that is not there has weight 1.

    An intermediate prediction ``"task/stage"`` costs what its task's loss without boundary terms says, at the same
    weight.
    """

    def __init__(self, config: TrainConfig, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        self.weights = {name: config.tasks.get(name, 1.0) for name in tasks}
        plain = dataclasses.replace(config, loss="ce", gamma=0.0)
        self.stage_losses = nn.ModuleDict({name: task.loss(plain) for name, task in tasks.items()})
        self.losses = nn.ModuleDict({name: task.loss(config) for name, task in tasks.items()})

    def forward(self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Computes the total and its terms.

        Args:
            predictions: what the model returns, floats (N, C, h, w) by name.
            targets: batches of maps by task, (N, H, W) or (N, C, H, W); only tasks with a target have a loss.
            step: number of steps taken before this one.

        Returns:
            Scalars: ``"total"``, which is minimized, every term of every task's loss as ``"task/term"``, and
            ``"task/stage/total"``.

        Raises:
            ValueError: the model does not predict every task, or a task's loss has no term ``"total"``.
        """
        losses = {name: loss for name, loss in self.losses.items() if name in targets}
        if missing := [name for name in losses if name not in predictions]:
            raise ValueError(f"the model must predict {', '.join(missing)}, got {', '.join(predictions)}")
        terms: dict[str, Tensor] = {}
        totals: list[Tensor] = []
        for name, loss in losses.items():
            own = loss(predictions, targets, step)
            if "total" not in own:
                raise ValueError(f"the loss of the task {name} must have the term 'total', got {', '.join(own)}")
            terms |= {f"{name}/{term}": value for term, value in own.items()}
            stages = [key for key in predictions if key.startswith(f"{name}/")]
            staged = {key: self.stage_losses[name]({name: predictions[key]}, targets, step)["total"] for key in stages}
            terms |= {f"{key}/total": value for key, value in staged.items()}
            totals += [self.weights[name] * value for value in (own["total"], *staged.values())]
        return {"total": torch.stack(totals).sum(), **terms}
