"""A loss of a part of a batch that divides by what is counted in the whole batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


class CountedLoss(nn.Module, ABC):
    """A loss whose counts, such as that of valid pixels, are of all processes and of all parts of a step.

    A subclass counts in the targets that it is given, and is given the mean of each count over the parts of the whole
    batch to divide by. So the parts' mean of each term is the term of the whole batch in one part, and so are the
    gradients, however uneven the parts are.
    """

    @abstractmethod
    def own_counts(self, targets: Mapping[str, Tensor], step: int) -> Sequence[Tensor]:
        """Counts in the targets of one part: scalars, which depend on targets and step alone."""

    @abstractmethod
    def terms(
        self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor], step: int, *counts: Tensor
    ) -> dict[str, Tensor]:
        """Computes the loss's terms of one part; ``counts`` are float32 scalars in the order of ``own_counts``."""

    def count(self, parts: Sequence[Mapping[str, Tensor]], step: int) -> Tensor:
        """Counts in the targets of all parts of a step, on all processes: float64, the number of parts comes first."""
        own = [torch.stack(tuple(self.own_counts(targets, step))).double() for targets in parts]
        counts = torch.cat((own[0].new_tensor([len(parts)]), torch.stack(own).sum(0)))
        if dist.is_initialized():
            dist.all_reduce(counts)
        return counts

    def forward(
        self,
        predictions: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        step: int,
        counts: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Computes the loss's terms; ``counts`` is what :meth:`count` returned, if the batch is a part of a step's."""
        counts = self.count([targets], step) if counts is None else counts
        return self.terms(predictions, targets, step, *(counts[1:] / counts[0]).float())


def divided(total: Tensor, count: Tensor) -> Tensor:
    """Divides a sum by how many it is of in the mean part: 0 if there are none in any part."""
    return total / torch.where(count > 0, count, 1)
