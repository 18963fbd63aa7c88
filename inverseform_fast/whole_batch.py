"""A batch that is spread over processes and micro-batches, as one of its parts sees it.

What terms are averaged over, or balanced by, are sums over the batch. They travel in one float64 vector, which counts
exactly up to 2^53, by one all-reduce.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from . import checks

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


def check_micro_batches(micro_batches: Sequence[Tensor]) -> None:
    if not isinstance(micro_batches, (list, tuple)) or not micro_batches:
        raise TypeError(
            f"micro_batches must be a list of at least one tensor of labels, got {checks.shown(micro_batches)}"
        )
    for labels in micro_batches:
        checks.check_labels(labels)


def check_process_group(group: object) -> str:
    """Check that this process is in the group, and return its name."""
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError("process_group must be made by torch.distributed.init_process_group, which was not called")
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("process_group must be a group that this process is in, got one of other processes")
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"process_group must be a torch.distributed.ProcessGroup, got {checks.shown(group)}")
    return group.group_name
