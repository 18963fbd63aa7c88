"""Scoring a model on whole images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ..devices import choose_device
from .checkpoint import Checkpoint, load_checkpoint
from .config import TrainConfig
from .datasets import Sample, SegmentationDataset, build_dataset
from .datasets.base import Transform
from .models import SegmentationModel, build_model
from .models.base import model_inputs
from .tasks import Task, metric_prefixes
from .transforms import EvalTransform


class Transformed(Dataset[Sample]):
    """A data set after a transform of its samples."""

    def __init__(self, dataset: SegmentationDataset, transform: Transform) -> None:
        self.dataset = dataset
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.transform(self.dataset[index])


@torch.no_grad()
def predict(
    model: SegmentationModel, inputs: Mapping[str, Tensor], tasks: Mapping[str, Task], size: tuple[int, int]
) -> dict[str, Tensor]:
    """What a model makes of inputs (those of a batch, float32) as maps at ``size`` (H, W), by task.

    Maps are (N, H, W) class ids int64, or whatever else ``task.decode`` gives. The model is in its evaluation mode
    meanwhile, and on the device of its parameters; so are the maps.
    """
    was_training = model.training
    model.eval()
    predictions = model(model_inputs(model, inputs, device_of(model)))
    model.train(was_training)
    return {name: task.decode(predictions[name], size) for name, task in tasks.items()}


def device_of(model: SegmentationModel) -> torch.device:
    """The device of a model's parameters."""
    return next(model.parameters()).device


def evaluate(
    model: SegmentationModel,
    dataset: SegmentationDataset,
    *,
    tasks: Mapping[str, Task] | None = None,
    size: tuple[int, int] | None = None,
    batch_size: int = 8,
    workers: int = 0,
    on_images: Callable[[int], object] = lambda count: None,
) -> dict[str, float]:
    """The metrics of a model on a data set: of the first task by their names, of the others by ``"task/metric"``.

    Runs on the device of the model's parameters. Images of different sizes are fine.

    Args:
        tasks: that the model predicts; all of the data set's if not given.
        size: resize image and targets to (height, width) first.
        on_images: called with the number of images of each batch, for a progress bar.

    Raises:
        ValueError: the data set lacks a task, has it otherwise, or lacks an input of the model.
    """
    tasks = dataset.tasks if tasks is None else tasks
    check_tasks(dataset, tasks)
    metrics = {name: task.metrics().to(device_of(model)) for name, task in tasks.items()}
    samples = DataLoader(Transformed(dataset, EvalTransform(dataset.tasks, size)), batch_size=None, num_workers=workers)
    for batch in _batches_of_one_size(samples, batch_size):
        images = batch["image"]
        maps = predict(model, batch, tasks, (images.shape[-2], images.shape[-1]))
        for name, metric in metrics.items():
            metric.update(maps[name], batch[name].to(maps[name].device))
        on_images(len(images))
    prefixes = metric_prefixes(tasks)
    values = {name: metric.compute() for name, metric in metrics.items()}
    return {f"{prefixes[name]}{key}": float(value) for name in tasks for key, value in values[name].items()}


def _batches_of_one_size(samples: Iterable[Sample], batch_size: int) -> Iterator[Sample]:
    batch: list[Sample] = []
    for sample in samples:
        if batch and (len(batch) == batch_size or sample["image"].shape != batch[0]["image"].shape):
            yield default_collate(batch)
            batch = []
        batch.append(sample)
    if batch:
        yield default_collate(batch)


def check_tasks(dataset: SegmentationDataset, tasks: Mapping[str, Task]) -> None:
    """Checks that a data set has these very tasks.

    Raises:
        ValueError: it lacks one, or a field of one differs.
    """
    for name, task in tasks.items():
        own = dataset.tasks.get(name)
        if type(own) is not type(task):
            raise ValueError(f"the data set must have the task {name}, got {', '.join(dataset.tasks)}")
        for field in dataclasses.fields(task):
            wanted, got = (getattr(each, field.name) for each in (task, own))
            if field.compare and wanted != got:
                raise ValueError(f"the data set must have the {field.name} {wanted} of the task {name}, got {got}")


def open_dataset(config: TrainConfig, split: str) -> SegmentationDataset:
    """A split of the data set that a configuration names.

    Raises:
        FileNotFoundError, ValueError: a bad name, split or option, or a file that is missing or bad.
    """
    try:
        return build_dataset(config.data, split, config.root, **config.data_options)
    except TypeError as error:
        raise ValueError(f"data_options must be arguments of the data set {config.data!r}: {error}") from error


def load_model(path: Path) -> tuple[SegmentationModel, Checkpoint]:
    """The model of a checkpoint (a file, or the folder of a run), on the CPU, and the checkpoint.

    Raises:
        FileNotFoundError: no checkpoint there. ValueError: a damaged one.
    """
    checkpoint = load_checkpoint(path)
    return restore_model(checkpoint), checkpoint


def restore_model(checkpoint: Checkpoint) -> SegmentationModel:
    """The model of a checkpoint in its evaluation mode, on the CPU."""
    config = checkpoint.config
    model = build_model(config.model, config.backbone, checkpoint.tasks, boundary_head=config.boundary_head)
    model.load_state_dict(checkpoint.model)
    return model.eval()


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    data: str | None = None,
    root: str | None = None,
    split: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 8,
    workers: int = 0,
    device: str | None = None,
) -> dict[str, float]:
    """The metrics of a checkpoint; what is not given is as in its training.

    Raises:
        FileNotFoundError: no data.
        ValueError: a data set of other classes, say, or no such device.
    """
    config = checkpoint.config
    if data not in (None, config.data):
        config = dataclasses.replace(config, data=data, data_options={}, root=root)
    elif root:
        config = dataclasses.replace(config, root=root)
    dataset = open_dataset(config, split or config.eval_split)
    return evaluate(
        restore_model(checkpoint).to(choose_device(device)),
        dataset,
        tasks=checkpoint.tasks,
        size=size or config.eval_size,
        batch_size=batch_size,
        workers=workers,
    )
