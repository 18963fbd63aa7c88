"""Features of a frozen backbone, computed once for all frames, and models whose backbone they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from inverseform_fast.files import write_atomically
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.evaluation import Transformed, open_dataset
from inverseform_fast.segmentation.models import PyramidSegmenter
from inverseform_fast.segmentation.models.backbones import TimmBackbone
from inverseform_fast.segmentation.models.heads import STRIDE
from inverseform_fast.segmentation.tasks import Task
from inverseform_fast.segmentation.transforms import EvalTransform


class Frames(NamedTuple):
    """All frames of a split: features (F, 2, c, h, w) float16 of each as it is and mirrored, and labels (F, H, W)."""

    features: list[Tensor]
    labels: Tensor

    def batch(self, indices: list[int], mirrored: list[bool]) -> tuple[list[Tensor], Tensor]:
        """Features (N, c, h, w) float32 and labels (N, H, W) of frames, mirrored where it is asked for."""
        features = [level[indices, [int(flip) for flip in mirrored]].float() for level in self.features]
        pairs = zip(indices, mirrored, strict=True)
        return features, torch.stack([self.labels[i].flip(-1) if flip else self.labels[i] for i, flip in pairs])


def frames_of(config: TrainConfig, split: str, cache: Path) -> Frames:
    """The frames of a split at the size ``config.crop`` behind ``config.backbone``, kept in the file ``cache``."""
    if not cache.exists():
        frames = _computed(config, split)
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache, lambda file: torch.save(frames._asdict(), file))
    return Frames(**torch.load(cache, weights_only=True, mmap=True))


@torch.no_grad()
def _computed(config: TrainConfig, split: str) -> Frames:
    dataset = open_dataset(config, split)
    backbone = TimmBackbone(config.backbone, STRIDE, config.pretrained).eval()
    samples = Transformed(dataset, EvalTransform(dataset.tasks, config.crop))
    levels, labels = [], []
    for index in range(len(samples)):
        sample = samples[index]
        views = torch.stack((sample["image"], sample["image"].flip(-1)))
        levels.append([feature.half() for feature in backbone(views)])
        labels.append(sample["semantic"].to(torch.uint8))
    return Frames([torch.stack(level) for level in zip(*levels, strict=True)], torch.stack(labels))


class Known(nn.Module):
    """Stands for a backbone: what it returns is what ``features`` was set to."""

    features: list[Tensor]

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.features


class FrozenModel(nn.Module):
    """The package's pyramid of ``config``, with weights of ``config.seed``, called with features in place of images."""

    def __init__(self, config: TrainConfig, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        torch.manual_seed(config.seed)
        self.model = PyramidSegmenter(config.backbone, tasks, boundary_head=config.boundary_head)
        self.model.backbone = self.known = Known()  # type: ignore[assignment]
        self.size = config.crop

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        self.known.features = features
        return self.model({"image": torch.empty(len(features[0]), 3, *self.size)})  # of which it asks the size only
