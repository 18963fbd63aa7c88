"""The base class of data sets that have a file for each task of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ..tasks import Task
from ..tasks.binary import BinaryTask
from .base import Sample, SegmentationDataset, Transform, check_names
from .files import check_root, check_size_of, read_all, read_image, read_names, relabeled
from .label_map import LabelMap

Places = Sequence[str]  # files of which the first one that exists is read; {} stands for the name of an image


@dataclass(frozen=True)
class Source:
    """Says where a data set has the target of a task, and how it is read.

    Attributes:
        task: the task.
        read: makes the target from the path of each file.
        files: the files that it takes, below the root.
    """

    task: Task
    read: Callable[..., Tensor]
    files: Sequence[Places]


class MultiTaskFiles(SegmentationDataset):
    """Reads each sample from an image file and a file or two for each task, when it is asked for.

    At the start it only looks whether all files are there. A file that cannot be read is an error that names it, and
    ``check_files`` finds it before a training.

    Args:
        split: one of ``splits``.
        root: the folder of the data set.
        tasks: names of the tasks, in order.
        sources: all that the data set has; one is the task ``semantic``.
        image: the image's file, below the root.
        names: the file that lists the names of the split's images, below the root; {} stands for the split.
        label_map: the class of each value of the files of the task ``semantic``.
        transform: a function of a sample, applied to each.

    Raises:
        FileNotFoundError: the folder, the list of the split, a folder of a task or a file is missing.
        ValueError: the split or a task is unknown, the list is empty or has a name twice, or the label map has more
            classes than the task.
    """

    def __init__(
        self,
        split: str,
        root: str | Path,
        tasks: Sequence[str],
        sources: Sequence[Source],
        image: str,
        names: str,
        label_map: LabelMap,
        transform: Transform | None,
    ) -> None:
        root, self._label_map = check_root(root), label_map
        known = {source.task.name: source for source in sources}
        label_map.check(known["semantic"].task.channels)
        chosen = {name: known[name] for name in check_names(tasks, known)}
        listed = read_names(root / names.format(split)) if split in self.splits else []
        super().__init__(split, [known[name].task for name in tasks], listed, transform)
        self._readers = {name: source.read for name, source in chosen.items()}
        self._images = _find(root, "image", (image,), listed)
        self._files = {
            name: [_find(root, name, places, listed) for places in source.files] for name, source in chosen.items()
        }

    def keep(self, indices: Sequence[int]) -> None:
        """Leaves out all other samples."""
        self.names = [self.names[index] for index in indices]
        self._images = [self._images[index] for index in indices]
        for name, files in self._files.items():
            self._files[name] = [[found[index] for index in indices] for found in files]

    def read(self, index: int) -> Sample:
        path = self._images[index]
        sample = {"image": read_image(path)[0]}
        for name, read in self._readers.items():
            files = [found[index] for found in self._files[name]]
            sample[name] = read(*files)
            check_size_of(sample[name], f"{name} {files[0]}", sample["image"], path)
        return sample

    def check_files(self, indices: Sequence[int]) -> None:
        read_all(self, indices)

    def check_for_training(self) -> None:
        """Reads samples until each task has shown something to learn.

        Raises:
            ValueError: a task has nothing in the whole split.
        """
        unseen = dict(self.tasks)
        for index in range(len(self)):
            sample = self.read(index)
            unseen = {name: task for name, task in unseen.items() if not _teaches(sample[name], task)}
            if not unseen:
                return
        name, task = next(iter(unseen.items()))
        wanted = "the value 1" if isinstance(task, BinaryTask) else "a truth"
        raise ValueError(f"{name} must have a pixel with {wanted}, but none of the {len(self)} images has one")

    def label_file(self, index: int) -> Path | None:
        return self._files["semantic"][0][index] if "semantic" in self._files else None

    def label_values(self, index: int, labels: Tensor) -> np.ndarray:
        """Returns values that the label map reads as ``labels``; see :func:`.files.relabeled`."""
        return relabeled(self._files["semantic"][0][index], labels, self._label_map)


def _teaches(target: Tensor, task: Task) -> bool:
    """Whether there is something to learn: files of edges whose values are misread have none."""
    taught = target == 1 if isinstance(task, BinaryTask) else target != task.void
    return bool(taught.any())


def _find(root: Path, role: str, places: Places, names: Sequence[str]) -> list[Path]:
    """Returns the file of each name."""
    folders = list(dict.fromkeys((root / place).parent for place in places))
    if not any(folder.is_dir() for folder in folders):
        raise FileNotFoundError(f"root must hold the folder of {role}: no folder {' or '.join(map(str, folders))}")
    found = []
    for name in names:
        paths = [root / place.format(name) for place in places]
        file = next((path for path in paths if path.is_file()), None)
        if file is None:
            raise FileNotFoundError(f"{role} of {name} must exist: no file {' or '.join(map(str, paths))}")
        found.append(file)
    return found
