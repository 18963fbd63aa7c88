"""What a task is: all that is particular to one thing that a model predicts for every pixel."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

if TYPE_CHECKING:
    from ..config import TrainConfig

Kind = Literal["labels", "depth", "normals", "map"]
RGB = tuple[int, int, int]  # 0..255
RESERVED = ("image", "boundary", "total")


@dataclass(frozen=True)
class Headline:
    """How people read a metric: ``scale * value`` with ``digits`` decimals under a ``title``.

    Attributes:
        in_summary: whether the metric is worth a place in the one-line summary of a run.
    """

    title: str
    scale: float = 1.0
    digits: int = 3
    in_summary: bool = True

    def text(self, value: float) -> str:
        """The value in print; a dash where it is not defined (NaN)."""
        return "-" if math.isnan(value) else f"{self.scale * value:.{self.digits}f}"


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """One thing to predict for every pixel: its target, loss, decoding, metrics and picture.

    A new task is a subclass, itself a frozen dataclass whose fields are plain values (they go into checkpoints), with
    a line in ``tasks.TASKS``. It says ``kind`` and ``channels`` and has ``loss``, ``decode``, ``metrics`` and
    ``draw``; all else has a default. A data set owns its tasks, and ``docs/guide/extend.md`` shows a whole one.

    A *map* is the target of one image or a decoded prediction in the same form: (H, W) or (C, H, W), int64 if ``kind``
    is ``"labels"`` and float32 otherwise.

    Attributes:
        name: key of the target in a sample and of the prediction in what a model returns. It is an identifier other
            than ``image``, ``boundary``, ``total`` and what ``nn.ModuleDict`` has, such as ``train``.
        void: value of target pixels that have no truth; padding gets it, and losses and metrics must leave it out.
        kind: what augmentation does to a target. All are resized to the nearest pixel; ``"depth"`` is also divided by
            the scale of a resize, and ``"normals"`` (3, H, W; x to the right comes first) have x negated by a flip.
        channels: how many numbers a model predicts for a pixel.
        short_terms: short names of the loss's terms, for the progress line.
        note: a sentence for the report on how to read the metrics.

    Raises:
        ValueError: a name that is no identifier, or one that is reserved.
    """

    name: str
    void: float = 255
    kind: ClassVar[Kind]
    short_terms: ClassVar[Mapping[str, str]] = {}
    note: ClassVar[str] = ""

    def __post_init__(self) -> None:
        # Tasks name the modules of an nn.ModuleDict, which refuses the names of its own attributes.
        if not self.name.isidentifier() or self.name in RESERVED or hasattr(nn.ModuleDict(), self.name):
            raise ValueError(
                f"name must be an identifier other than {', '.join(RESERVED)} and the attributes of nn.ModuleDict, "
                f"got {self.name!r}"
            )

    @property
    @abstractmethod
    def channels(self) -> int: ...

    @abstractmethod
    def loss(self, config: TrainConfig) -> nn.Module:
        """A module that is called as ``loss(predictions, targets, step)`` and returns a dict of scalars by term.

        ``predictions`` are all that the model returns, floats (N, C, h, w) of any resolution; ``targets`` are batches
        of maps by task; ``step`` counts from 0. The term ``"total"`` is minimised, the others are logged.
        """

    @abstractmethod
    def decode(self, prediction: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps (N, H, W) or (N, C, H, W) at ``size`` (H, W) of a model's prediction (N, channels, h, w)."""

    @abstractmethod
    def metrics(self) -> Metric | MetricCollection:
        """A fresh metric: ``update(prediction, target)`` takes batches of maps, ``compute()`` gives a value by name."""

    @abstractmethod
    def draw(self, values: Tensor) -> Tensor:
        """A picture (H, W, 3) uint8 of a map."""

    def draw_errors(self, image: Tensor, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """More pictures (H, W, 3) uint8 by title, of an image (3, H, W) uint8 and its two maps; none by default."""
        return {}

    def legend(self) -> Iterable[tuple[str, RGB]]:
        """Names of the colours in the pictures; none by default."""
        return ()

    def headlines(self) -> dict[str, Headline]:
        """How metrics are shown, in order; one that is not there goes by its own name, with three decimals."""
        return {}


def choose_tasks(tasks: Mapping[str, Task], weights: Mapping[str, float]) -> dict[str, Task]:
    """The tasks that have a weight, in the data set's order; all of them if ``weights`` is empty.

    Raises:
        ValueError: a weight for a task that the data set does not have.
    """
    if unknown := [name for name in weights if name not in tasks]:
        raise ValueError(f"tasks must be of those of the data set, {', '.join(tasks)}, got {', '.join(unknown)}")
    return {name: task for name, task in tasks.items() if name in weights or not weights}


def metric_prefixes(tasks: Iterable[str]) -> dict[str, str]:
    """What stands before the names of each task's metrics: nothing for the first task, ``"task/"`` for the others."""
    return {name: f"{name}/" if position else "" for position, name in enumerate(tasks)}
