"""A model is scored on whole images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from ..checks import check_size
from ..nets.weights import load_strictly
from .checkpoint import Checkpoint, load_checkpoint
from .config import TrainConfig
from .datasets import Sample, SegmentationDataset, build_dataset
from .datasets.base import Transform
from .models import SegmentationModel, build_model
from .models.base import model_inputs
from .processes import joined, share_of
from .progress import bars, counter
from .tasks import Task, metric_prefixes
from .transforms import EvalTransform


class Transformed(Dataset[Sample]):
    """A data set whose samples are transformed."""

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
    """Predicts maps for a batch, with the model in evaluation mode.

    Args:
        inputs: batches by name, at least those of ``model.inputs``; ``"image"`` is float32 (N, 3, h, w), normalized.
            ``"scale"`` (N,), if it is there, says how much larger the images are than the data's, and multiplies depth.
        tasks: the tasks to predict, by name.
        size: height and width (H, W) of the maps.

    Returns:
        A map for each task, as ``task.decode`` gives it: class ids (N, H, W) int64 of the semantic task. The maps are
        on the device of the model's parameters.

    Raises:
        ValueError: an input of the model is missing.
    """
    was_training = model.training
    model.eval()
    predictions = model(model_inputs(model, inputs, device_of(model)))
    model.train(was_training)
    maps = {name: task.decode(predictions[name], size) for name, task in tasks.items()}
    if "scale" in inputs:  # what is twice as large looks half as far away
        for name in (name for name, task in tasks.items() if task.kind == "depth"):
            scale = inputs["scale"].to(maps[name].device)
            maps[name] = maps[name] * scale.view(-1, *[1] * (maps[name].ndim - 1))
    return maps


def device_of(model: SegmentationModel) -> torch.device:
    """Returns the device of a model's parameters."""
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
    """Measures a model on a data set, on the device of the model's parameters.

    Images may differ in size. In a process group, each process scores its share of the images, all must call this, and
    all get the metrics of the whole data set.

    Args:
        tasks: the tasks to score; all tasks of the data set if not given. The model's auxiliary tasks are left out.
        size: (height, width) in pixels to which image and targets are resized first; None leaves them as they are.
        batch_size: number of images in a batch; images of different sizes go into different batches.
        workers: number of processes that load data; 0: this one loads them itself.
        on_images: a function for a progress bar, called with the number of images of each batch.

    Returns:
        The metrics of the first task by their own names, those of the others by ``"task/metric"``.

    Raises:
        ValueError: the data set lacks a task or an input of the model, or its task differs from the model's; or the
            size or a number is not positive.
    """
    if size is not None:
        check_size(size)
    if batch_size < 1 or workers < 0:
        raise ValueError(f"batch_size must be positive and workers at least 0, got {batch_size} and {workers}")
    tasks = dataset.tasks if tasks is None else tasks
    check_tasks(dataset, tasks)
    scored = {name: task for name, task in tasks.items() if name not in model.auxiliary}
    metrics = {name: task.metrics().to(device_of(model)) for name, task in scored.items()}
    share = Subset(Transformed(dataset, EvalTransform(dataset.tasks, size)), share_of(len(dataset)))
    samples = DataLoader(share, batch_size=None, num_workers=workers)
    for batch in _batches_of_one_size(samples, batch_size):
        images = batch["image"]
        maps = predict(model, batch, scored, (images.shape[-2], images.shape[-1]))
        for name, metric in metrics.items():
            metric.update(maps[name], batch[name].to(maps[name].device))
        on_images(len(images))
    values: dict[str, float] = {}
    prefixes = metric_prefixes(tasks)
    for name, metric in metrics.items():
        prefix = prefixes[name]
        for key, value in _scalars(name, metric.compute()).items():
            if f"{prefix}{key}" in values:
                raise ValueError(f"metrics must have names of their own, but two are called {prefix}{key}")
            values[f"{prefix}{key}"] = value
    return values


def _scalars(task: str, metrics: object) -> dict[str, float]:
    """Checks what a task's metric computed, and turns it into numbers."""
    if not isinstance(metrics, Mapping):
        raise ValueError(f"the metric of the task {task} must compute a dict of scalars, got {type(metrics).__name__}")
    for name, value in metrics.items():
        if (size := torch.as_tensor(value).numel()) != 1:
            raise ValueError(f"the metric {name} of the task {task} must be a scalar, got {size} values")
    return {name: float(value) for name, value in metrics.items()}


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
        ValueError: the data set lacks a task, or a field of its task differs.
    """
    for name, task in tasks.items():
        found = dataset.tasks.get(name)
        if found is None:
            raise ValueError(f"the data set must have the task {name}, got {', '.join(dataset.tasks)}")
        if type(found) is not type(task):
            raise ValueError(f"the task {name} must be a {type(task).__name__}, got {type(found).__name__}")
        for field in dataclasses.fields(task):
            expected, actual = getattr(task, field.name), getattr(found, field.name)
            if field.compare and expected != actual:
                raise ValueError(f"the data set must have the {field.name} {expected} of the task {name}, got {actual}")


def open_dataset(config: TrainConfig, split: str) -> SegmentationDataset:
    """Opens a split of the data set that a configuration names.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the name, the split or an option is wrong, or a file is bad.
    """
    return build_dataset(config.data, split, config.root, **config.data_options)


def with_data(
    config: TrainConfig, data: str | None, root: str | None, data_options: Mapping[str, Any] | None = None
) -> TrainConfig:
    """The configuration with another data set, or with the same one in another place; None keeps what it has.

    ``data_options`` are added to those that the data set has.
    """
    options = dict(data_options or {})
    if data not in (None, config.data):
        return dataclasses.replace(config, data=data, data_options=options, root=root)
    return dataclasses.replace(config, data_options=config.data_options | options, root=root or config.root)


def load_model(path: Path) -> tuple[SegmentationModel, Checkpoint]:
    """Loads a checkpoint (a file, or the folder of a run); returns its model, on the CPU, and the checkpoint.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the checkpoint is damaged.
    """
    checkpoint = load_checkpoint(path)
    return restore_model(checkpoint), checkpoint


def restore_model(checkpoint: Checkpoint) -> SegmentationModel:
    """Rebuilds the model of a checkpoint, in evaluation mode and on the CPU.

    Raises:
        ValueError: a weight is missing, superfluous, of another shape or dtype, or not finite.
    """
    config = checkpoint.config
    model = build_model(
        config.model, config.backbone, checkpoint.tasks, boundary_head=config.boundary_head, **config.model_options
    )
    load_strictly(model, checkpoint.model, checkpoint.path, "checkpoint")
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
    data_options: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> dict[str, float]:
    """Measures the model of a checkpoint; see :func:`evaluate` for arguments and result.

    Processes that ``torchrun`` started share the work.

    An argument that is None has the value of the training. ``device`` is an exception: None is the GPU if there is one.
    ``data_options`` are added to those of the training, if the data set is the same.
    ``console`` shows the progress; None shows none.

    Raises:
        FileNotFoundError: the data are missing.
        ValueError: the data set has other tasks or classes, an option is wrong, or this machine has no such device.
    """
    config = with_data(checkpoint.config, data, root, data_options)
    config = dataclasses.replace(
        config, eval_size=size or config.eval_size, batch_size=batch_size, workers=workers, device=device
    )
    with joined(config.device, config.timeout) as processes:
        model = restore_model(checkpoint).to(processes.device)
        dataset = open_dataset(config, split or config.eval_split)
        console = console if console and processes.is_first else Console(quiet=True)
        with bars(console) as progress:
            return evaluate(
                model,
                dataset,
                tasks=checkpoint.tasks,
                size=config.eval_size,
                batch_size=batch_size,
                workers=workers,
                on_images=counter(progress, "evaluating", len(share_of(len(dataset)))),
            )
