"""A batch that is spread over processes and micro-batches, as one of its parts sees it.

What terms are averaged over, or balanced by, are sums over the batch. They travel in one float64 vector, which counts
exactly up to 2^53, by one all-reduce.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

# What is counted in labels: 1 for each part; positive and negative pixels; the weights of pixels in both
# cross-entropies, and tiles with a boundary, which are averaged over.
COUNTS = 6


class Part:
    """The part that one process has: its numbers, which are added up over the processes from now on.

    The all-reduce is a functional collective, which ``torch.compile`` can trace and which knows a group by its name.

    Args:
        counts: what is counted in the labels of this part, float64.
        group: name of the process group, or None.
        sums: those of each term that depends on the predictions of the whole batch, float64.
    """

    def __init__(self, counts: Tensor, group: str | None, sums: Mapping[str, Tensor] | None = None) -> None:
        self._sums = sums or {}
        self._own, self._group = torch.cat((counts, *(each.flatten() for each in self._sums.values()))), group
        self._sum = self._own if group is None else torch.ops._c10d_functional.all_reduce(self._own, "sum", group)

    def sum(self) -> Tensor:
        """The sum over the processes; on a CPU it is waited for, and on a GPU the stream waits."""
        return self._sum if self._group is None else torch.ops._c10d_functional.wait_tensor(self._sum)

    def whole(self, counts: Tensor | None) -> WholeBatch:
        """The batch of which this is a part; ``counts`` are of all its micro-batches, or None if there is one."""
        summed = self.sum()
        sums = summed[COUNTS:].split([own.numel() for own in self._sums.values()])
        counts = summed[:COUNTS] if counts is None else counts
        parts, processes = counts[:1], summed[:1]  # parts is processes times micro-batches
        # Where nothing counts in the whole batch, the share is 0.
        shares = parts * self._own[3:COUNTS] / counts[3:].clamp(min=torch.finfo(counts.dtype).tiny)
        return WholeBatch(
            factors=torch.cat((shares, parts, processes)),
            balance=counts[1:3],
            sums={name: each.view_as(own) for (name, own), each in zip(self._sums.items(), sums, strict=True)},
        )


class WholeBatch(NamedTuple):
    """What a part needs to know of the batch; all float64."""

    factors: Tensor  # [5], of segmentation, edge, inverseform, boundary and the gradients of dice and f1
    balance: Tensor  # [2], positive and negative pixels
    sums: Mapping[str, Tensor]  # of dice and f1, of the micro-batch on all processes

    def terms(
        self, segmentation: Tensor, boundary: Tensor, inverseform: Tensor, edge: Tensor, dice: Tensor, f1: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The part's share of each term, times the number of parts, so that the parts' mean is the whole batch's term.

        Three terms come as means over the part. The boundary's is the part's summand. Dice and F1 are those of all
        processes already, but only the logits of this one have a gradient here.
        """
        factors = self.factors.to(segmentation.dtype)
        scaled = factors[:4] * torch.stack((segmentation, edge, inverseform, boundary))
        segmentation, edge, inverseform, boundary = scaled.unbind()
        dice, f1 = (each.detach() + factors[4] * (each - each.detach()) for each in (dice, f1))
        return segmentation, boundary, inverseform, edge, dice, f1
