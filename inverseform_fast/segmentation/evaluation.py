"""Scoring a model on whole images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..devices import choose_device
from .checkpoint import CHECKPOINT, Checkpoint, load_checkpoint
from .config import TrainConfig
from .datasets import SegmentationDataset, build_dataset
from .metrics import SegmentationMetrics
from .models import build_model
from .transforms import eval_transform


class Transformed(Dataset[dict[str, Tensor]]):
    """A data set after a transform of its samples."""

    def __init__(self, dataset: SegmentationDataset, transform: Callable[[Any], Any]) -> None:
        self.dataset = dataset
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.transform(self.dataset[index])


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, size: tuple[int, int]) -> Tensor:
    """Class ids (N, H, W) int64 of normalised images (N, 3, h, w), at ``size`` (H, W).

    The logits are upsampled (bilinear) before the argmax. The model is in its evaluation mode meanwhile.
    """
    was_training = model.training
    model.eval()
    logits = model(images)["segmentation"]
    model.train(was_training)
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False).argmax(1)


def evaluate(
    model: nn.Module,
    dataset: SegmentationDataset,
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 8,
    workers: int = 0,
    on_images: Callable[[int], object] = lambda count: None,
) -> dict[str, float]:
    """The metrics of :class:`~inverseform_fast.segmentation.metrics.SegmentationMetrics` of a model on a data set.

    Runs on the device of the model's parameters. Images of different sizes are fine.

    Args:
        size: resize image and labels to (height, width) first.
        on_images: called with the number of images of each batch, for a progress bar.
    """
    device = next(model.parameters()).device
    metrics = SegmentationMetrics(len(dataset.classes), dataset.ignore_index, class_names=dataset.classes)
    samples = DataLoader(Transformed(dataset, eval_transform(size)), batch_size=None, num_workers=workers)
    for images, labels in _batches_of_one_size(samples, batch_size):
        labels = labels.to(device)
        height, width = labels.shape[-2:]
        metrics.update(predict(model, images.to(device), (height, width)), labels)
        on_images(len(images))
    return metrics.compute()


def _batches_of_one_size(samples: Iterable[dict[str, Tensor]], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    batch: list[dict[str, Tensor]] = []
    for sample in samples:
        if batch and (len(batch) == batch_size or sample["image"].shape != batch[0]["image"].shape):
            yield _stack(batch)
            batch = []
        batch.append(sample)
    if batch:
        yield _stack(batch)


def _stack(batch: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([s["image"] for s in batch]), torch.stack([s["segmentation"] for s in batch])


def open_dataset(config: TrainConfig, split: str) -> SegmentationDataset:
    """A split of the data set that a configuration names.

    Raises:
        FileNotFoundError, ValueError: a bad name, split or option, or a file that is missing or bad.
    """
    try:
        return build_dataset(config.data, split, config.root, **config.data_options)
    except TypeError as error:
        raise ValueError(f"data_options must be arguments of the data set {config.data!r}: {error}") from error


def load_model(path: Path) -> tuple[nn.Module, Checkpoint]:
    """The model of a checkpoint (a file, or the folder of a run), on the CPU, and the checkpoint.

    Raises:
        FileNotFoundError: no checkpoint there. ValueError: a damaged one.
    """
    checkpoint = load_checkpoint(path / CHECKPOINT if path.is_dir() else path)
    config = checkpoint.config
    model = build_model(config.backbone, len(checkpoint.classes), config.boundary_head, model=config.model)
    model.load_state_dict(checkpoint.model)
    return model.eval(), checkpoint


def evaluate_checkpoint(
    path: Path,
    data: str | None = None,
    root: str | None = None,
    split: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 8,
    workers: int = 0,
    device: str | None = None,
) -> dict[str, float]:
    """The metrics of a checkpoint (a file, or the folder of a run); what is not given is as in its training.

    Raises:
        FileNotFoundError: no checkpoint, or no data.
        ValueError: a damaged checkpoint, a data set of other classes, or no such device.
    """
    model, checkpoint = load_model(path)
    config = checkpoint.config
    if data not in (None, config.data):
        config = dataclasses.replace(config, data=data, data_options={}, root=root)
    elif root:
        config = dataclasses.replace(config, root=root)
    dataset = open_dataset(config, split or config.eval_split)
    if list(dataset.classes) != checkpoint.classes:
        raise ValueError(f"the data set must have the classes {checkpoint.classes}, got {list(dataset.classes)}")
    model.to(choose_device(device))
    return evaluate(model, dataset, size=size or config.eval_size, batch_size=batch_size, workers=workers)
