"""The criterion sums the losses of all tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

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

    def count(self, parts: Sequence[Mapping[str, Tensor]], step: int) -> dict[str, Tensor]:
        """What losses must know of all targets of a step whose batch is taken in parts, by task.

        A task's loss that needs to know it has such a method, too, and takes the result as the argument ``counts``.

        Args:
            parts: the targets of each part, as ``forward`` takes them.
            step: number of steps taken before this one.
        """
        counters = {name: getattr(loss, "count", None) for name, loss in self.losses.items()}
        return {name: count(parts, step) for name, count in counters.items() if count}

    def forward(
        self,
        predictions: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        step: int,
        counts: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Computes the total and its terms.

        Args:
            predictions: what the model returns, floats (N, C, h, w) by name.
            targets: batches of maps by task, (N, H, W) or (N, C, H, W); only tasks with a target have a loss.
            step: number of steps taken before this one.
            counts: what ``count`` returned, if the batch is a part of the step's.

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
            known = {"counts": counts[name]} if counts and name in counts else {}
            own = loss(predictions, targets, step, **known)
            if "total" not in own:
                raise ValueError(f"the loss of the task {name} must have the term 'total', got {', '.join(own)}")
            terms |= {f"{name}/{term}": value for term, value in own.items()}
            stages = [key for key in predictions if key.startswith(f"{name}/")]
            plain = self.stage_losses[name]
            staged = {key: plain({name: predictions[key]}, targets, step, **known)["total"] for key in stages}
            terms |= {f"{key}/total": value for key, value in staged.items()}
            totals += [self.weights[name] * value for value in (own["total"], *staged.values())]
        return {"total": torch.stack(totals).sum(), **terms}
