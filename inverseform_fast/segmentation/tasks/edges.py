"""The edges task predicts how likely an edge goes through a pixel; InverseForm may act on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, get_args

from torch import Tensor, nn

import inverseform_fast as iff

from ...checks import VOID, check_choice, check_number
from ..config import TrainConfig
from ..metrics import EdgeMetrics
from ..metrics.edges import Matching
from .base import Headline
from .binary import BalancedBCE, BinaryTask
from .counted import CountedLoss, divided
from .semantic import GAMMA


@dataclass(frozen=True, kw_only=True)
class EdgeTask(BinaryTask):
    """Predicts how likely an edge goes through a pixel. The target is (H, W) of 0, 1 (edge) and ``void``.

    The loss is the class-balanced binary cross-entropy, and InverseForm if the configuration has a ``gamma``, whatever
    its ``loss`` is for classes, or if its ``loss`` is InverseForm. The metric is odsF.

    Attributes:
        balance: the weight of edge pixels in the loss, 0 to 1; the others have ``1 - balance``. None takes the share of
            the others in the batch.
        matching: how predicted and true edges are matched: "one-to-one" for odsF, which needs SciPy, or "dilation" for
            an upper bound.

    Raises:
        TypeError: ``balance`` is no number.
        ValueError: ``balance`` is not between 0 and 1, or ``matching`` is neither of these.
    """

    short_terms: ClassVar[Mapping[str, str]] = {"inverseform": "if"}

    name: str = "edges"
    balance: float | None = field(default=0.95, compare=False)
    matching: Matching = field(default="one-to-one", compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.balance is not None and not 0 <= check_number(self.balance, "balance") <= 1:
            raise ValueError(f"balance must be between 0 and 1, got {self.balance}")
        check_choice(self.matching, "matching", get_args(Matching))

    def loss(self, config: TrainConfig) -> nn.Module:
        return EdgeLoss(self, config)

    def metrics(self) -> EdgeMetrics:
        return EdgeMetrics(self.void, self.matching)

    def headlines(self) -> dict[str, Headline]:
        percent = partial(Headline, scale=100, digits=1)
        return {"odsf": percent("odsF"), "odsf_bound": percent("odsF at most")}


class EdgeLoss(CountedLoss):
    """Computes the loss of edges: ``bce``, and ``inverseform`` from the step ``config.inverseform_start`` on.

    InverseForm has the weight ``config.gamma``, whatever the weight of the task is.
    """

    def __init__(self, task: EdgeTask, config: TrainConfig) -> None:
        super().__init__()
        self.name, self.void, self.start = task.name, task.void, config.inverseform_start
        self.bce = BalancedBCE(task, task.balance)
        gamma = config.gamma if config.gamma is not None else GAMMA if config.loss == "inverseform" else 0.0
        self.gamma = gamma / config.tasks.get(task.name, 1.0)  # the criterion multiplies the total by the task's weight
        self.inverseform: iff.InverseFormLoss | None = None
        if gamma:
            net = config.net or "compact"
            self.inverseform = iff.InverseFormLoss(net, config.distance, config.resize, reduction="sum")
            self.inverseform.knows_boundaries = True  # the values of the target are checked before

    def own_counts(self, targets: Mapping[str, Tensor], step: int) -> tuple[Tensor, ...]:
        """Counts the pixels of both kinds, and tiles with an edge if InverseForm counts."""
        pixels = self.bce.own_counts(targets, step)
        if self.inverseform is None or step < self.start:
            return pixels
        return *pixels, self.inverseform.tiles_with_boundary(self._edges(targets))

    def terms(
        self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor], step: int, *counts: Tensor
    ) -> dict[str, Tensor]:
        bce = self.bce.terms(predictions, targets, step, *counts[:2])["total"]
        if self.inverseform is None or step < self.start:
            return {"total": bce, "bce": bce}
        inverseform = divided(self.inverseform(predictions[self.name], self._edges(targets)), counts[2])
        return {"total": bce + self.gamma * inverseform, "bce": bce, "inverseform": inverseform}

    def _edges(self, targets: Mapping[str, Tensor]) -> Tensor:
        target = targets[self.name]
        return target.masked_fill(target == self.void, VOID)[:, None]
