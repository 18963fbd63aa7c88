"""The data set ``scenes`` makes procedural street scenes, so it needs no files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ...checks import check_size, check_whole
from ...scenes import geometry
from ...scenes.rendering import band_noise, render
from ...scenes.street import BICYCLIST, CAR, CLASSES, PAVEMENT, PEDESTRIAN, Painter, paint_street
from ..metrics.edges import thin
from ..tasks import DepthTask, EdgeTask, NormalsTask, PartsTask, SaliencyTask, SemanticTask, Task
from ..tasks.semantic import VOID
from .base import Sample, SegmentationDataset, Transform, check_names

_COLORS = (  # CamVid has the same
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
_LENGTHS = {"train": 256, "val": 64, "test": 64}
_FAR = 80.0  # metres: what is farther has no depth and no normal, as if a sensor had measured them
_TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        SemanticTask(classes=tuple(CLASSES), colors=_COLORS),
        PartsTask(),
        EdgeTask(),
        SaliencyTask(),
        NormalsTask(),
        DepthTask(),
    )
}


class Scenes(SegmentationDataset):
    """Makes pictures of procedural street scenes with 11 classes like CamVid's and a few per cent of void.

    All scenes are made at the start and kept in memory. A scene depends on the seed, the split, its index and the size,
    and on nothing else. Besides classes, a scene knows these targets:

    - ``parts``: of the pedestrians, void in an image without any.
    - ``edges``: thinned borders of the classes, before void is drawn.
    - ``saliency``: cars, pedestrians and bicyclists.
    - ``normals``: x right, y up, z towards the camera; void where there is no depth.
    - ``depth``: metres along the camera's axis; sky, skylines and what is farther than 80 metres are void.

    Args:
        split: "train", "val" or "test".
        size: (height, width) in pixels.
        length: number of scenes; if not given, 256 for "train" and 64 for the others.
        seed: seed of everything random.
        tasks: names of the tasks, in order: semantic, parts, edges, saliency, normals, depth.
        transform: a function of a sample, applied to each.

    Raises:
        ValueError: the split or a task is unknown, the size or the length is not positive, or the seed no whole number.
    """

    needs_root = False

    def __init__(
        self,
        split: str,
        size: tuple[int, int] = (144, 192),
        length: int | None = None,
        seed: int = 0,
        transform: Transform | None = None,
        tasks: Sequence[str] = ("semantic",),
    ) -> None:
        length = _LENGTHS.get(split, 0) if length is None else check_whole(length, "length", 1)
        height, width = check_size(size)
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ValueError(f"seed must be a whole number, got {seed!r}")
        names = [f"{split}_{index:05d}" for index in range(length)]
        super().__init__(split, [_TASKS[name] for name in check_names(tasks, _TASKS)], names, transform)
        self.images = torch.empty((length, 3, height, width), dtype=torch.uint8)
        self.labels = torch.empty((length, height, width), dtype=torch.uint8)
        self._targets: list[Sample] = []
        for index in range(length):
            digest = hashlib.sha256(f"{seed}/{split}/{index}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
            painter = paint_street(height, width, generator)
            self.images[index] = render(painter, generator)
            self.labels[index] = _with_void(painter, generator)
            targets = {name: _TARGETS[name](painter) for name in self.tasks if name != "semantic"}
            known = {"semantic": self.labels[index], **targets}
            self._targets.append({name: known[name] for name in self.tasks})

    def read(self, index: int) -> Sample:
        return {"image": self.images[index], **self._targets[index]}


def _with_void(painter: Painter, generator: torch.Generator) -> Tensor:
    """Returns the labels with void where human annotators leave it: specks along borders, and some whole things."""
    labels = painter.labels()
    void = _borders(labels) & (band_noise((labels.shape[0], labels.shape[1]), (12, 32), generator) > 0.8)
    skipped = torch.rand(len(painter.layers), generator=generator) < 0.03
    things = torch.tensor([layer.material > PAVEMENT for layer in painter.layers])
    void |= (skipped & things)[painter.layer.int()]
    return labels.masked_fill_(void, VOID)


def _borders(labels: Tensor) -> Tensor:
    """Returns which pixels (height, width) differ from one of their four neighbours."""
    border = torch.zeros_like(labels, dtype=torch.bool)
    for dim in (0, 1):
        first, second = (labels.narrow(dim, start, labels.shape[dim] - 1) for start in (0, 1))
        differs = first != second
        for start in (0, 1):
            border.narrow(dim, start, labels.shape[dim] - 1).logical_or_(differs)
    return border


def _parts(painter: Painter) -> Tensor:
    parts = geometry.parts(painter)
    return parts if parts.any() else parts.fill_(VOID)


def _edges(painter: Painter) -> Tensor:
    return thin(_borders(painter.labels())).float()


def _saliency(painter: Painter) -> Tensor:
    return torch.isin(painter.labels(), torch.tensor((CAR, PEDESTRIAN, BICYCLIST), dtype=torch.uint8)).float()


def _normals(painter: Painter) -> Tensor:
    return geometry.normals(painter).masked_fill_(geometry.depth(painter) > _FAR, VOID)


def _depth(painter: Painter) -> Tensor:
    depth = geometry.depth(painter)
    return depth.masked_fill_(depth > _FAR, 0)


_TARGETS = {"parts": _parts, "edges": _edges, "saliency": _saliency, "normals": _normals, "depth": _depth}
