"""The semantic task predicts a class for every pixel, and trains with the boundary losses of this library."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

import inverseform_fast as iff

from ..config import TrainConfig
from ..metrics import SegmentationMetrics
from ..metrics.boundary import class_boundaries, dilate, disk_half_widths
from .base import RGB, Headline, Kind, Task

VOID = 255
GAMMA = 0.3  # the weight of InverseForm where it is asked for without one
# Orange red and blue are far apart for every common kind of colour blindness.
MISSING, FALSE = (230, 60, 20), (30, 90, 230)


@dataclass(frozen=True, kw_only=True)
class SemanticTask(Task):
    """Predicts a class for every pixel. The target is (H, W) class ids, ``void`` where there is none.

    The configuration chooses the loss: cross-entropy alone, :class:`inverseform_fast.BoundaryAwareLoss` without
    InverseForm, or with it. The boundary is ``predictions["boundary"]`` if the model has such a head; without one the
    class logits imply it.

    Attributes:
        classes: names of the classes; a class id is an index into them.
        colors: RGB 0..255 of each class, for pictures; :func:`palette` makes them if they are not given. Tasks that
            differ in nothing else are equal.

    Raises:
        ValueError: two classes have one name, or the number of colors is not that of the classes.
    """

    kind: ClassVar[Kind] = "labels"
    short_terms: ClassVar[Mapping[str, str]] = {"segmentation": "xe", "boundary": "bxe", "inverseform": "if"}
    note: ClassVar[str] = (
        "Shares are in percent. Void is left out; a class in neither truth nor prediction (-) is left out of the mean."
    )

    name: str = "semantic"
    void: int = VOID
    classes: tuple[str, ...]
    colors: tuple[RGB, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes must have names of their own, got {self.classes}")
        if not self.colors:
            object.__setattr__(self, "colors", palette(self.channels))
        if len(self.colors) != len(self.classes):
            raise ValueError(f"colors must be {len(self.classes)}, one for each class, got {len(self.colors)}")

    @property
    def channels(self) -> int:
        return len(self.classes)

    def loss(self, config: TrainConfig) -> nn.Module:
        return SemanticLoss(config, self.name, self.void)

    def aligner(self, config: TrainConfig) -> nn.Module | None:
        return SemanticAligner(config, self.name, self.void)

    def decode(self, prediction: Tensor, size: tuple[int, int]) -> Tensor:
        """Upsamples logits (N, C, h, w) bilinearly to ``size``; returns their argmax, class ids (N, H, W) int64."""
        return F.interpolate(prediction.float(), size=size, mode="bilinear", align_corners=False).argmax(1)

    def metrics(self) -> Metric:
        return SegmentationMetrics(self.channels, self.void, class_names=self.classes)

    def draw(self, values: Tensor) -> Tensor:
        return colorize(values, self.colors)

    def draw_errors(self, image: Tensor, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"boundary errors": boundary_errors(image, prediction, target, self.void)}

    def legend(self) -> Iterable[tuple[str, RGB]]:
        yield from zip(self.classes, self.colors, strict=True)
        yield "missing boundary", MISSING
        yield "false boundary", FALSE

    def headlines(self) -> dict[str, Headline]:
        titles = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "mba": "mBA"}
        titles |= {f"boundary_f_{tolerance}px": f"boundary F {tolerance} px" for tolerance in (1, 3, 5)}
        titles |= {"boundary_iou": "Boundary IoU"}
        percent = partial(Headline, scale=100, digits=1)
        shown = {name: percent(title) for name, title in titles.items()}
        return shown | {f"iou/{name}": percent(f"IoU {name}", in_summary=False) for name in self.classes}


class SemanticLoss(nn.Module):
    """Computes the loss that a configuration chooses, of the logits and labels of the task ``name``.

    Its terms are ``total`` and ``segmentation`` and, unless the loss is cross-entropy alone, those of
    :class:`inverseform_fast.losses.LossTerms`. InverseForm counts from the step ``config.inverseform_start`` on.
    """

    def __init__(self, config: TrainConfig, name: str, void: int) -> None:
        super().__init__()
        self.name, self.start = name, config.inverseform_start
        self.terms = ("total", "segmentation") if config.loss == "ce" else iff.LossTerms._fields
        self.loss = _boundary_aware_loss(config, void)
        self.gamma = self.loss.gamma

    def count(self, parts: Sequence[Mapping[str, Tensor]], step: int) -> Tensor:
        """What the loss must know of all labels of a step whose batch is taken in parts."""
        self._set_gamma(step)
        return self.loss.count([targets[self.name] for targets in parts])

    def forward(
        self,
        predictions: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        step: int,
        counts: Tensor | None = None,
    ) -> dict[str, Tensor]:
        self._set_gamma(step)
        terms = self.loss(predictions[self.name], targets[self.name], predictions.get("boundary"), counts=counts)
        return {name: getattr(terms, name) for name in self.terms}

    def _set_gamma(self, step: int) -> None:
        self.loss.gamma = self.gamma if step >= self.start else 0.0


def _boundary_aware_loss(config: TrainConfig, void: int) -> iff.BoundaryAwareLoss:
    group = dist.group.WORLD  # None if there is one process
    if config.loss == "ce":
        return iff.BoundaryAwareLoss(0, ignore_index=void, edge=0, dice=0, f1=0, process_group=group)
    term = iff.InverseFormLoss(net=config.net or "compact", distance=config.distance, resize=config.resize)
    gamma = GAMMA if config.gamma is None else config.gamma
    if config.loss == "boundary":
        gamma = 0.0
    return iff.BoundaryAwareLoss(
        config.beta, gamma, config.radius, void, inverseform=term,
        edge=config.edge, dice=config.dice, f1=config.f1, process_group=group,
    )  # fmt: skip


class SemanticAligner(nn.Module):
    """Moves the labels of the task ``name`` by an :class:`inverseform_fast.LabelAligner` with ``config.net``."""

    def __init__(self, config: TrainConfig, name: str, void: int) -> None:
        super().__init__()
        self.name = name
        self.aligner = iff.LabelAligner(config.net, config.radius, void)

    def forward(self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> iff.Alignment:
        boundary = predictions.get("boundary") if self.aligner.reader else None  # the classes tell more
        return self.aligner.align(predictions[self.name], targets[self.name], boundary)


def colorize(labels: Tensor, colors: Sequence[RGB]) -> Tensor:
    """Draws class ids (H, W) as a picture (H, W, 3) uint8 RGB; void is black."""
    palette = torch.zeros(256, 3, dtype=torch.uint8)
    palette[: len(colors)] = torch.tensor(colors, dtype=torch.uint8)
    return palette[labels.long()]


def boundary_errors(image: Tensor, prediction: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Draws the boundary pixels that the F-score at 1 px counts as wrong over the image in light grey.

    An orange pixel is on a true boundary without a predicted one of the same class within 1 px; a blue pixel is on a
    predicted boundary without a true one.

    Args:
        image: (3, H, W) uint8 RGB.
        prediction, target: (H, W) integer class ids; ``ignore_index`` in the target is void.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    grey = image.float().mean(0)
    picture = (175 + 0.3 * grey).to(torch.uint8)[..., None].repeat(1, 1, 3)
    valid = target != ignore_index
    true, predicted = (class_boundaries(labels, valid, 256) for labels in (target, prediction))
    disk = disk_half_widths(1)
    for boundaries, counterparts, color in ((predicted, true, FALSE), (true, predicted, MISSING)):
        wrong = boundaries & ~dilate(counterparts, disk, torch.bitwise_or)
        picture[wrong.any(0)] = torch.tensor(color, dtype=torch.uint8)
    return picture


def palette(count: int) -> tuple[RGB, ...]:
    """Returns ``count`` colours whose hues are far apart."""
    colors = []
    for i in range(count):
        red, green, blue = colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.45 + 0.4 * (i % 2), 0.55 + 0.2 * (i % 3))
        colors.append((round(red * 255), round(green * 255), round(blue * 255)))
    return tuple(colors)
