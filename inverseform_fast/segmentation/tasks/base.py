"""The base class of tasks: a task holds all that is particular to one thing that a model predicts for every pixel."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from ..config import TrainConfig

Kind = Literal["labels", "depth", "normals", "map"]
RGB = tuple[int, int, int]  # 0..255
RESERVED = ("image", "scale", "boundary", "total")


@dataclass(frozen=True)
class Headline:
    """How people read a metric: ``scale * value`` with ``digits`` decimals under a ``title``.

    Attributes:
        title: name of the metric for people.
        scale: factor of the printed value; 100 for per cent.
        digits: number of decimals.
        in_summary: whether the metric appears in the one-line summary of a run.
    """

    title: str
    scale: float = 1.0
    digits: int = 3
    in_summary: bool = True

    def text(self, value: float) -> str:
        """Prints the value; a dash stands for NaN, a value that is not defined."""
        return "-" if math.isnan(value) else f"{self.scale * value:.{self.digits}f}"


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """One thing to predict for every pixel: its target, loss, decoding, metrics and picture.

    A new task is a subclass, itself a frozen dataclass whose fields are plain values (they go into checkpoints), with
    a line in ``tasks.TASKS``. It sets ``kind`` and ``channels`` and has ``loss``, ``decode``, ``metrics`` and
    ``draw``; all else has a default. A data set owns its tasks, and ``docs/guide/extend.md`` shows a whole task.

    A *map* is the target of one image or a decoded prediction in the same form: (H, W) or (C, H, W), int64 if ``kind``
    is ``"labels"`` and float32 otherwise.

    Attributes:
        name: key of the target in a sample, and of the prediction in what a model returns. It is an identifier other
            than ``image``, ``scale``, ``boundary``, ``total`` and the attributes of ``nn.ModuleDict``, as ``train``.
        void: value of target pixels without a truth. Padding has this value, and losses and metrics must ignore it.
        kind: how augmentation treats a target. Every kind is resized to the nearest pixel; ``"depth"`` is also divided
            by the scale of a resize, because what is twice as large looks half as far away. A flip negates the x of
            ``"normals"``, and a rotation turns their x and y; they are (3, H, W), x to the right and y up.
        channels: how many numbers a model predicts for a pixel.
        short_terms: short names of the loss's terms, for the progress line.
        note: a sentence for the report on how to read the metrics.

    Raises:
        ValueError: the name is no identifier or is reserved, or the class says no known ``kind``.
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
        if (kind := getattr(self, "kind", None)) not in get_args(Kind):
            raise ValueError(f"kind of {type(self).__name__} must be one of {', '.join(get_args(Kind))}, got {kind!r}")

    @property
    @abstractmethod
    def channels(self) -> int: ...

    @abstractmethod
    def loss(self, config: TrainConfig) -> nn.Module:
        """Makes the loss, a module that is called as ``loss(predictions, targets, step)``.

        It returns a dict of scalars by term: the term ``"total"`` is minimized, and all terms are logged.
        ``predictions`` are all that the model returns, floats (N, C, h, w) of any resolution; ``targets`` are batches
        of maps by task; ``step`` counts from 0.
        """

    def aligner(self, config: TrainConfig) -> nn.Module | None:
        """Makes the module that moves displaced targets to where a model sees them; None, the default: there is none.

        It is called as ``aligner(predictions, targets)``, with what the loss is given, and returns an
        :class:`inverseform_fast.Alignment`. Its ``labels`` have the form of the target. It has no gradient and no
        state, and its result depends on the arguments alone, so that a resumed run gives the same numbers.
        """
        return None

    @abstractmethod
    def decode(self, prediction: Tensor, size: tuple[int, int]) -> Tensor:
        """Turns a model's prediction (N, channels, h, w) into maps (N, H, W) or (N, C, H, W) of ``size`` (H, W)."""

    @abstractmethod
    def metrics(self) -> Metric | MetricCollection:
        """Makes a fresh metric: ``update(prediction, target)`` takes batches of maps, ``compute()`` returns a dict."""

    @abstractmethod
    def draw(self, values: Tensor) -> Tensor:
        """Draws a map as a picture (H, W, 3) uint8 RGB."""

    def draw_errors(self, image: Tensor, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Draws more pictures (H, W, 3) uint8, by title; none by default.

        Args:
            image: (3, H, W) uint8 RGB.
            prediction, target: maps of the image.
        """
        return {}

    def legend(self) -> Iterable[tuple[str, RGB]]:
        """Returns the names and colours of the pictures' legend; none by default."""
        return ()

    def headlines(self) -> dict[str, Headline]:
        """Returns how metrics are shown, in order; a metric without a headline has its own name and three decimals."""
        return {}


def choose_tasks(tasks: Mapping[str, Task], weights: Mapping[str, float]) -> dict[str, Task]:
    """Returns the tasks that have a weight, in the data set's order; all of them if ``weights`` is empty.

    Raises:
        ValueError: ``weights`` names a task that the data set does not have.
    """
    if unknown := [name for name in weights if name not in tasks]:
        raise ValueError(f"tasks must be tasks of the data set ({', '.join(tasks)}), got {', '.join(unknown)}")
    return {name: task for name, task in tasks.items() if name in weights or not weights}


def metric_prefixes(tasks: Iterable[str]) -> dict[str, str]:
    """Returns the prefix of the names of each task's metrics: none for the first task, ``"task/"`` for the others."""
    return {name: f"{name}/" if position else "" for position, name in enumerate(tasks)}
