"""The criterion sums the losses of all tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..tasks import Task


class Criterion(nn.Module):
    """Sums the tasks' losses, weighted by ``config.tasks``; a task that is not there has weight 1."""

    def __init__(self, config: TrainConfig, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        self.weights = {name: config.tasks.get(name, 1.0) for name in tasks}
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
            targets: batches of maps by task, (N, H, W) or (N, C, H, W).
            step: number of steps taken before this one.
            counts: what ``count`` returned, if the batch is a part of the step's.

        Returns:
            Scalars: ``"total"``, which is minimized, and every term of every task's loss as ``"task/term"``.

        Raises:
            ValueError: the model does not predict every task, or a task's loss has no term ``"total"``.
        """
        if missing := [name for name in self.losses if name not in predictions]:
            raise ValueError(f"the model must predict {', '.join(missing)}, got {', '.join(predictions)}")
        terms: dict[str, Tensor] = {}
        for name, loss in self.losses.items():
            known = {"counts": counts[name]} if counts and name in counts else {}
            own = loss(predictions, targets, step, **known)
            if "total" not in own:
                raise ValueError(f"the loss of the task {name} must have the term 'total', got {', '.join(own)}")
            terms |= {f"{name}/{term}": value for term, value in own.items()}
        weighted = [weight * terms[f"{name}/total"] for name, weight in self.weights.items()]
        return {"total": torch.stack(weighted).sum(), **terms}
