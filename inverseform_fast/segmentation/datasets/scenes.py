"""The data set ``scenes`` makes procedural street scenes, so it needs no files."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ...checks import check_size, check_whole
from ...scenes.rendering import band_noise, render
from ...scenes.street import CLASSES, PAVEMENT, Painter, paint_street
from ..tasks import SemanticTask
from ..tasks.semantic import VOID
from .base import Sample, SegmentationDataset, Transform

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


class Scenes(SegmentationDataset):
    """Makes pictures of procedural street scenes with 11 classes like CamVid's and a few per cent of void.

    All scenes are made at the start and kept in memory. A scene depends on the seed, the split, its index and the size,
    and on nothing else.

    Args:
        split: "train", "val" or "test".
        size: (height, width) in pixels.
        length: number of scenes; if not given, 256 for "train" and 64 for the others.
        seed: seed of everything random.
        transform: a function of a sample, applied to each.

    Raises:
        ValueError: the split is unknown, the size or the length is not positive, or the seed no whole number.
    """

    needs_root = False

    def __init__(
        self,
        split: str,
        size: tuple[int, int] = (144, 192),
        length: int | None = None,
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        length = _LENGTHS.get(split, 0) if length is None else check_whole(length, "length", 1)
        height, width = check_size(size)
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ValueError(f"seed must be a whole number, got {seed!r}")
        names = [f"{split}_{index:05d}" for index in range(length)]
        super().__init__(split, [SemanticTask(classes=tuple(CLASSES), colors=_COLORS)], names, transform)
        self.images = torch.empty((length, 3, height, width), dtype=torch.uint8)
        self.labels = torch.empty((length, height, width), dtype=torch.uint8)
        for index in range(length):
            digest = hashlib.sha256(f"{seed}/{split}/{index}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
            painter = paint_street(height, width, generator)
            self.images[index] = render(painter, generator)
            self.labels[index] = _with_void(painter, generator)

    def read(self, index: int) -> Sample:
        return {"image": self.images[index], "semantic": self.labels[index]}


def _with_void(painter: Painter, generator: torch.Generator) -> Tensor:
    """Returns the labels with void where human annotators leave it: specks along borders, and some whole things."""
    labels = painter.labels()
    border = torch.zeros_like(labels, dtype=torch.bool)
    for dim in (0, 1):
        first, second = (labels.narrow(dim, start, labels.shape[dim] - 1) for start in (0, 1))
        differs = first != second
        for start in (0, 1):
            border.narrow(dim, start, labels.shape[dim] - 1).logical_or_(differs)
    void = border & (band_noise((labels.shape[0], labels.shape[1]), (12, 32), generator) > 0.8)
    skipped = torch.rand(len(painter.layers), generator=generator) < 0.03
    things = torch.tensor([layer.material > PAVEMENT for layer in painter.layers])
    void |= (skipped & things)[painter.layer.int()]
    return labels.masked_fill_(void, VOID)
