"""A batch that is spread over processes and micro-batches, as one of its parts sees it.

What terms are averaged over, or balanced by, are sums over the batch. They travel in one float64 vector, which counts
exactly up to 2^53, by one all-reduce.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# What is counted in labels: 1 for each part; positive and negative pixels; the weights of pixels in both
# cross-entropies, tiles with a boundary, and images, which are averaged over.
COUNTS = 7


class Part:
    """The part that one process has: its numbers, which are added up over the processes from now on.

    The all-reduce is a functional collective, which ``torch.compile`` can trace and which knows a group by its name.

    Args:
        counts: what is counted in the labels of this part, float64.
        group: name of the process group, or None.
        dice_sums: those of Dice, which depends on the predictions of the whole batch, float64.
    """

    def __init__(self, counts: Tensor, group: str | None, dice_sums: Tensor | None = None) -> None:
        self._own, self._group, self._dice_sums = counts, group, dice_sums
        sums = counts if dice_sums is None else torch.cat((counts, dice_sums.flatten()))
        self._sum = sums if group is None else torch.ops._c10d_functional.all_reduce(sums, "sum", group)

    def sum(self) -> Tensor:
        """The sum over the processes; on a CPU it is waited for, and on a GPU the stream waits."""
        return self._sum if self._group is None else torch.ops._c10d_functional.wait_tensor(self._sum)

    def whole(self, counts: Tensor | None) -> WholeBatch:
        """The batch of which this is a part; ``counts`` are of all its micro-batches, or None if there is one."""
        summed = self.sum()
        counts = summed[:COUNTS] if counts is None else counts
        parts, processes = counts[:1], summed[:1]  # parts is processes times micro-batches
        # Where nothing counts in the whole batch, the share is 0.
        shares = parts * self._own[3:COUNTS] / counts[3:].clamp(min=torch.finfo(counts.dtype).tiny)
        return WholeBatch(
            factors=torch.cat((shares, parts, processes)),
            balance=counts[1:3],
            dice_sums=None if self._dice_sums is None else summed[COUNTS:].view_as(self._dice_sums),
        )


class WholeBatch(NamedTuple):
    """What a part needs to know of the batch; all float64."""

    factors: Tensor  # [6], of segmentation, edge, inverseform, f1, boundary and the gradient of dice
    balance: Tensor  # [2], positive and negative pixels
    dice_sums: Tensor | None  # of the micro-batch on all processes

    def terms(
        self, segmentation: Tensor, boundary: Tensor, inverseform: Tensor, edge: Tensor, dice: Tensor, f1: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The part's share of each term, times the number of parts, so that the parts' mean is the whole batch's term.

        Four terms come as means over the part. The boundary's is the part's summand. Dice is that of all processes
        already, but only the logits of this one have a gradient here.
        """
        factors = self.factors.to(segmentation.dtype)
        scaled = factors[:5] * torch.stack((segmentation, edge, inverseform, f1, boundary))
        segmentation, edge, inverseform, f1, boundary = scaled.unbind()
        dice = dice.detach() + factors[5] * (dice - dice.detach())
        return segmentation, boundary, inverseform, edge, dice, f1
