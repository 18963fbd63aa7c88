"""The base class of data sets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ...checks import shown
from ..tasks import Task

Sample = dict[str, Tensor]
Transform = Callable[[Sample], Sample]


class SegmentationDataset(Dataset[Sample]):
    """A data set has images, and a target of each image for each of its tasks.

    A new data set is a subclass with ``read``, and a line in ``datasets.DATASETS``. :func:`build_dataset` calls the
    class with ``split``, with ``root`` if ``needs_root``, and with the options that a user gives.

    Args:
        split: one of ``splits``.
        tasks: the tasks that it has targets for. The first one is the main task: its metrics have their bare names.
        names: the name of each sample, in order.
        transform: a function of a sample, applied to each.

    Attributes:
        tasks: the tasks by name.
        names: the name of each sample, in order.
        splits: the splits that the data set has.
        needs_root: whether it reads files below a folder ``root``.

    Raises:
        ValueError: the split is unknown or has no sample, there is no task, two tasks have one name, or
            ``transform`` is no function.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    needs_root: ClassVar[bool] = True

    def __init__(
        self, split: str, tasks: Sequence[Task], names: Sequence[str], transform: Transform | None = None
    ) -> None:
        if split not in self.splits:
            raise ValueError(f"split must be one of {', '.join(self.splits)}, got {split!r}")
        self.tasks = {task.name: task for task in tasks}
        if not tasks or len(self.tasks) < len(tasks):
            raise ValueError(f"tasks must be one or more of different names, got {[task.name for task in tasks]}")
        if transform is not None and not callable(transform):
            raise ValueError(f"transform must be a function of a sample, got {transform!r}")
        self.names, self.transform = list(names), transform
        if not self.names:
            raise ValueError(f"split {split!r} must have at least one sample, got none")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """Returns what ``read`` gives, image and targets as tv_tensors, after the transform if there is one.

        Raises:
            ValueError: ``read`` left out the image or a target, or gave a target that is not of the image's size.
        """
        sample = self.read(index)
        self._check(sample, index)
        sample = sample | {"image": tv_tensors.Image(sample["image"])}
        sample |= {name: tv_tensors.Mask(sample[name]) for name in self.tasks}
        return sample if self.transform is None else self.transform(sample)

    def _check(self, sample: Sample, index: int) -> None:
        if missing := [name for name in ("image", *self.tasks) if name not in sample]:
            raise ValueError(f"read({index}) must give {', '.join(missing)}, got {', '.join(sample)}")
        size = tuple(sample["image"].shape[-2:])
        for name in self.tasks:
            if (found := tuple(sample[name].shape))[-2:] != size:
                raise ValueError(f"read({index}) must give {name} of the image's size {size}, got shape {found}")

    def read(self, index: int) -> Sample:
        """Reads a sample: ``"image"`` uint8 (3, H, W) RGB, and the target of each task by the task's name.

        A target is (H, W) or (C, H, W), of integers if the task's kind is ``"labels"``. Any other key is one more input
        for models that need it, such as the depth of an RGB-D camera: (H, W) or (C, H, W). Augmentation treats it as a
        target of kind ``"map"``.
        """
        raise NotImplementedError

    def label_file(self, index: int) -> Path | None:
        """Returns the file, below ``root``, that a sample's labels are read from; None, the default: there is none."""
        return None

    def label_values(self, index: int, labels: Tensor) -> np.ndarray:
        """Returns what a sample's label file holds, (H, W), where its labels are ``labels``: the class ids as uint8."""
        return labels.to(torch.uint8).numpy()

    def check_files(self, indices: Sequence[int]) -> None:
        """Reads the files of samples before a training, so that a bad one does not stop it hours later.

        By default it does not look.

        Raises:
            ValueError: a file is bad; the message names it.
        """

    def check_for_training(self) -> None:
        """Raises a ValueError if nothing can be learned from the split's targets; by default it does not look."""


def check_names(tasks: Sequence[str], known: Collection[str]) -> Sequence[str]:
    """Returns the option ``tasks`` of a data set that has the tasks ``known``.

    Raises:
        ValueError: it is no list, or names another task.
    """
    if isinstance(tasks, str) or not isinstance(tasks, Sequence) or any(name not in known for name in tasks):
        raise ValueError(f"tasks must be a list of {', '.join(known)}, got {shown(tasks)}")
    return tasks
