"""The data sets of NYU-Depth-v2: photographs of rooms with classes, depth, normals and edges."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..tasks import DepthTask, EdgeTask, NormalsTask, SemanticTask
from .base import Sample, Transform
from .files import FileDataset, Pair, check_root, check_size_of, read_all, read_image, read_label, read_names
from .label_map import LabelMap, Pairs
from .maps import check_axes, read_binary, read_depth, read_normals
from .multi_task import MultiTaskFiles, Source

_NAMES = (
    "wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, blinds, desk, shelves, "
    "curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, refrigerator, television, paper, towel, "
    "shower curtain, box, whiteboard, person, night stand, toilet, sink, lamp, bathtub, bag, other structure, "
    "other furniture, other prop"
)
CLASSES = tuple(_NAMES.split(", "))
_LABELS = LabelMap("0:void,1-40:0-39", "0 for void or the number 1..40 of a class")
_LABELS.ids[255] = -1  # other copies count from 0 and mark void by 255: they must not be read one class too low


class NYUDMT(MultiTaskFiles):
    """Reads NYU-Depth-v2 as multi-task code has it on disk: 795 images to train on and 654 to test on.

    The folder has ``images/ID.jpg``, the lists ``gt_sets/train.txt`` and ``gt_sets/val.txt`` with one ID in a line, and
    of each task that is used:

    - ``semantic``: ``segmentation/ID.png``, 40 classes numbered from 1, 0 for void.
    - ``depth``: ``depth/ID.npy`` in metres, 0 for void; in the older archive the variable ``depth`` of
      ``depth/ID.mat``.
    - ``normals``: ``normals/ID.npy``, (H, W, 3), vectors of length 1, or 0 for void; in the older archive the pictures
      ``normals/ID.png``. The older archive's ``masks`` are not read.
    - ``edges``: ``edge/ID.npy``, or ``edge/ID.png``, without void.

    Args:
        split: "train" or "val", which is the official test set.
        root: folder of the data set.
        tasks: names of the tasks, in order: semantic, depth, normals, edges.
        label_map: the class of each value of the segmentation files; see :class:`.LabelMap`.
        normal_axes: what the three numbers of a normal in the files are. x points to the right, y up and z towards the
            camera; a minus turns an axis round. Only pictures and random rotations depend on y and z.
        transform: a function of a sample, applied to each.

    Raises:
        FileNotFoundError: the folder, the list of the split, a folder of a task or a file is missing.
        ValueError: the split, a task or an option is wrong. ``read`` raises it for a bad file.
    """

    splits = ("train", "val")

    def __init__(
        self,
        split: str,
        root: str | Path,
        tasks: Sequence[str] = ("semantic",),
        label_map: Pairs | None = None,
        normal_axes: Sequence[str] = ("x", "y", "z"),
        transform: Transform | None = None,
    ) -> None:
        labels = _LABELS if label_map is None else LabelMap(label_map)
        read_labels = partial(read_label, label_map=labels)
        read_vectors = partial(read_normals, axes=check_axes(normal_axes))
        sources = [
            Source(SemanticTask(classes=CLASSES), read_labels, [["segmentation/{}.png"]]),
            Source(DepthTask(), read_depth, [["depth/{}.npy", "depth/{}.mat"]]),
            Source(NormalsTask(), read_vectors, [["normals/{}.npy", "normals/{}.png"]]),
            Source(EdgeTask(), read_binary, [["edge/{}.npy", "edge/{}.png"]]),
        ]
        super().__init__(split, root, tasks, sources, "images/{}.jpg", "gt_sets/{}.txt", labels, transform)


class NYUDRGBD(FileDataset):
    """Reads NYU-Depth-v2 as RGB-D code has it on disk: 795 images to train on and 654 to test on, with 40 classes.

    The folder has ``train.txt`` and ``test.txt``. A line names an image and its label with a tab between them, such as
    ``RGB/1.jpg`` and ``Label/1.png``. Labels are numbered from 1, 0 for void.

    Args:
        split: "train" or "test".
        root: folder of the data set.
        hha: whether a sample also has the input ``hha``, uint8 (3, H, W): depth as a picture of horizontal disparity,
            height and angle with gravity, which ``HHA/NAME.jpg`` holds for the image ``NAME``.
        cache: whether to keep the decoded images and labels in memory.
        label_map: the class of each value of the label files; see :class:`.LabelMap`.
        transform: a function of a sample, applied to each.

    Raises:
        FileNotFoundError: the folder, the list of the split or a file is missing.
        ValueError: the split or an option is wrong, a line of the list names no two files, or a file is bad; see
            ``FileDataset``.
    """

    splits = ("train", "test")

    def __init__(
        self,
        split: str,
        root: str | Path,
        hha: bool = False,
        cache: bool = False,
        label_map: Pairs | None = None,
        transform: Transform | None = None,
    ) -> None:
        if not isinstance(hha, bool):
            raise ValueError(f"hha must be true or false, got {hha!r}")
        root = check_root(root)
        list_file = root / f"{split}.txt"
        pairs = [_pair(line, root, list_file) for line in read_names(list_file)] if split in self.splits else []
        self._hha = [root / "HHA" / f"{pair.image.stem}.jpg" for pair in pairs] if hha else []
        if missing := [path for path in self._hha if not path.is_file()]:
            raise FileNotFoundError(f"hha of {missing[0].stem} must exist: no file {missing[0]}")
        labels = _LABELS if label_map is None else LabelMap(label_map)
        names = [pair.image.stem for pair in pairs]
        super().__init__(split, pairs, names, SemanticTask(classes=CLASSES), cache, transform, labels)

    def check_files(self, indices: Sequence[int]) -> None:
        if self._hha:  # the other files were read at the start
            read_all(self, indices)

    def read(self, index: int) -> Sample:
        sample = super().read(index)
        if not self._hha:
            return sample
        hha = read_image(self._hha[index])[0]
        check_size_of(hha, f"hha {self._hha[index]}", sample["image"], self.pairs[index].image)
        return sample | {"hha": hha}


def _pair(line: str, root: Path, list_file: Path) -> Pair:
    """Returns the files that a line of a list names."""
    parts = line.split("\t")
    if len(parts) != 2:
        raise ValueError(f"{list_file} must have an image and its label in a line, with a tab between, got {line!r}")
    return Pair(root / parts[0], root / parts[1])
