"""Image files and label files are found, read and checked here."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from PIL.ExifTags import Base
from torch import Tensor

from ...files import read_text
from ..tasks import SemanticTask
from ..tasks.semantic import VOID
from .base import Sample, SegmentationDataset, Transform
from .label_counts import LabelCounts, listed
from .label_map import LabelMap, identity

_T = TypeVar("_T")
_R = TypeVar("_R")
_IMAGE_MODES = ("RGB", "RGBA", "L", "LA", "P", "CMYK")  # 8 bits per channel: others would be clipped on conversion
_TURNS = {  # what undoes an EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LABEL_MODES = ("L", "P", "I;16", "I")  # older versions of Pillow call 16 bits "I"
_ONE_CHANNEL = "if its channels are equal, Image.open(file).getchannel(0).save(file) keeps one; colors must become ids"
_WAYS_OUT = {"1": "Image.open(file).convert('L').save(file) makes it 0 and 255, which label_map=0:0,255:1 reads"}


class Pair(NamedTuple):
    """The files of a sample."""

    image: Path
    label: Path


class FileDataset(SegmentationDataset):
    """Reads samples from an image file and a label file each.

    A label file is a single-channel PNG. Its values are class ids, 255 for void, unless ``label_map`` says what they
    are. Every file is read once at the start, so that a bad one stops the program there and not hours later, and one
    line about what was seen goes to the log. Images and labels are turned as their EXIF orientation says.

    Args:
        split: one of ``splits``.
        pairs: image file and label file of each sample.
        names: the name of each sample, in order.
        task: the semantic task with the data set's classes.
        cache: whether to keep the decoded samples in memory, 4 bytes per pixel.
        transform: a function of a sample, applied to each.
        label_map: the class of each value of the label files; see :class:`.label_map.LabelMap`.
        remarks: what else there is to say about the files.

    Attributes:
        seen: one line about the files.

    Raises:
        FileNotFoundError: a file is missing; the message names it.
        ValueError: the split is unknown or empty; or a file cannot be read, an image and its label differ in size, or a
            label is no PNG of one channel or holds an unknown value; the message names the file. Or ``cache`` or
            ``label_map`` is bad, or one of two classes never occurs, but 255 does.
    """

    def __init__(
        self,
        split: str,
        pairs: Sequence[Pair],
        names: Sequence[str],
        task: SemanticTask,
        cache: bool,
        transform: Transform | None,
        label_map: LabelMap | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        super().__init__(split, [task], names, transform)
        if not isinstance(cache, bool):
            raise ValueError(f"cache must be true or false, got {cache!r}")
        self.pairs, self._label_map = pairs, label_map or identity(task.channels)
        self._label_map.check(task.channels)
        for name, (image, label) in zip(names, pairs, strict=True):
            if not image.is_file():
                raise FileNotFoundError(f"image of {name} must exist: no file {image}")
            if not label.is_file():
                raise FileNotFoundError(f"image {image} must have a label: no file {label}")

        def look(pair: Pair) -> tuple[int, np.ndarray, Sample | None]:
            sample, counts, orientation = _read_pair(pair, self._label_map)
            return orientation, counts, sample if cache else None  # a sample that is returned would stay in memory

        turned, counts = 0, np.zeros(len(self._label_map.ids), np.int64)
        self._cache: list[Sample | None] = []
        for orientation, found, sample in parallel_map(look, pairs):
            turned += orientation > 1
            counts[: len(found)] += found
            self._cache.append(sample)
        self._counts = LabelCounts(f"the label maps of {split}", task.classes, self._label_map, counts)
        self._counts.check()
        if turned:
            remarks = [*remarks, f"{turned} images are turned as their EXIF orientation says"]
        self.seen = "; ".join([f"{split}: {len(pairs)} label maps with {self._counts.text()}", *remarks])
        level = logging.WARNING if self._counts.missing or remarks else logging.INFO
        logging.getLogger("inverseform_fast").log(level, self.seen)

    def check_for_training(self) -> None:
        self._counts.check_for_training()

    def read(self, index: int) -> Sample:
        return self._cache[index] or _read_pair(self.pairs[index], self._label_map)[0]

    def label_file(self, index: int) -> Path:
        return self.pairs[index].label

    def label_values(self, index: int, labels: Tensor) -> np.ndarray:
        """Returns values that the label map reads as ``labels``; see :func:`relabeled`."""
        return relabeled(self.pairs[index].label, labels, self._label_map)


def check_root(root: str | Path) -> Path:
    """Returns the folder of a data set.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not (folder := Path(root)).is_dir():
        raise FileNotFoundError(f"root must be the folder that holds the data set: no folder {folder}")
    return folder


def read_names(path: Path) -> list[str]:
    """Reads the list of a split: the names of its images, one in a line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it lists none, or one twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"root must hold a list of the split's images: no file {path}")
    names = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    if not names:
        raise ValueError(f"{path} must list the images of the split, one in a line, got none")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{path} must list an image once, got {listed(twice)} again")
    return names


def find_files(folder: Path) -> list[Path]:
    """Returns the files below a folder, sorted. Links are followed; names that begin with a dot are left out.

    Raises:
        FileNotFoundError: a link leads nowhere.
        ValueError: a link leads to a folder that holds it.
    """

    def walk(folder: Path, around: frozenset[Path]) -> Iterator[Path]:
        if (real := folder.resolve()) in around:
            raise ValueError(f"{folder} must not be a link to a folder that holds it, {real}")
        with os.scandir(folder) as entries:
            shown = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
        for entry in shown:
            path = folder / entry.name
            if entry.is_dir():
                yield from walk(path, around | {real})
            elif entry.is_file():
                yield path
            else:
                target = f", but is a link to {os.readlink(path)}, which is none" if path.is_symlink() else ""
                raise FileNotFoundError(f"{path} must be a file or a folder{target}")

    return list(walk(folder, frozenset()))


def by_lower_suffix(files: Iterable[Path]) -> dict[Path, Path]:
    """Returns files by their paths with the suffix in small letters.

    Raises:
        ValueError: two paths differ in nothing else.
    """
    found: dict[Path, Path] = {}
    for path in files:
        if (first := found.setdefault(path.with_suffix(path.suffix.lower()), path)) != path:
            raise ValueError(f"files must differ in more than the case of their suffixes, got {first} and {path}")
    return found


def parallel_map(function: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[_R]:
    """Applies a function to each item, in a few threads: decoding an image releases the interpreter's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(function, items)


def read_all(dataset: SegmentationDataset, indices: Sequence[int]) -> None:
    """Reads samples, to see that their files are good."""
    logging.getLogger("inverseform_fast").info("reading the files of %d images", len(indices))

    def look(index: int) -> None:  # a sample that is returned would stay in memory
        dataset.read(index)

    for _ in parallel_map(look, indices):
        pass


def _read_pair(pair: Pair, label_map: LabelMap) -> tuple[Sample, np.ndarray, int]:
    """Reads and checks a sample; returns it, the pixels of each value of its label file, and the orientation."""
    image, orientation = read_image(pair.image)
    labels, counts = _read_label(pair.label, label_map)
    turned = f" when turned as its EXIF orientation {orientation} says" if orientation > 1 else ""
    check_size_of(labels, f"label {pair.label}", image, pair.image, turned)
    return {"image": image, "semantic": labels}, counts, orientation


def read_image(path: Path) -> tuple[Tensor, int]:
    """Reads a picture as uint8 (3, H, W) RGB, turned as its EXIF orientation says; returns it and the orientation.

    Raises:
        ValueError: the file is no readable image of 8 bits per channel; the message names it.
    """
    image, orientation = open_image(path, "image")
    if image.mode not in _IMAGE_MODES:
        raise ValueError(f"image {path} must have 8 bits per channel, got mode {image.mode}")
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous(), orientation


def check_size_of(target: Tensor, owner: str, image: Tensor, path: Path, turned: str = "") -> None:
    """Raises a ValueError if a target (..., H, W) is not of the size of its image (3, H, W), which ``path`` holds."""
    (height, width), expected = target.shape[-2:], image.shape[-2:]
    if (height, width) != expected:
        raise ValueError(
            f"{owner} must have the size of its image {path}, {expected[1]}x{expected[0]} (width x height){turned}, "
            f"got {width}x{height}"
        )


def read_label(path: Path, label_map: LabelMap | None = None) -> Tensor:
    """Reads a label file as class ids (H, W) uint8, 255 for void; its values are the ids if there is no ``label_map``.

    Raises:
        ValueError: the file is no readable PNG of one channel, or holds a value without a class; the message names it.
    """
    return _read_label(path, label_map or identity(VOID))[0]


def _read_label(path: Path, label_map: LabelMap) -> tuple[Tensor, np.ndarray]:
    """Reads class ids as :func:`read_label` does; returns them and the number of pixels of each value of the file."""
    values = read_values(path)
    counts = np.bincount(values.ravel())
    found = counts.nonzero()[0]
    if len(unknown := found[label_map.ids[found] < 0]):
        raise ValueError(
            f"label {path} must have {label_map.expected}, also got {listed(unknown.tolist())} "
            "(the option label_map says which class a value is, as in label_map=0:0,128:1)"
        )
    return torch.from_numpy(label_map.ids.astype(np.uint8)[values]), counts


def relabeled(path: Path, labels: Tensor, label_map: LabelMap) -> np.ndarray:
    """Returns values (H, W), of the dtype of the label file ``path``, that the label map reads as ``labels``.

    A pixel that keeps its class keeps its value, and so does one that became void where no value is void.
    """
    values = read_values(path)
    wanted = label_map.values()[labels.numpy()]
    kept = (label_map.ids[values] == labels.numpy()) | (wanted < 0)
    return np.where(kept, values, wanted).astype(values.dtype)


def read_values(path: Path) -> np.ndarray:
    """Reads the values that a label file holds: (H, W) uint8, or uint16 if it has 16 bits.

    Raises:
        ValueError: the file is no readable PNG of one channel with 2 to 16 bits; the message names it.
    """
    label, _ = open_image(path, "label")
    if label.format != "PNG":
        raise ValueError(f"label {path} must be a PNG file, which keeps every pixel's id, but holds {label.format}")
    if label.mode not in _LABEL_MODES:
        raise ValueError(
            f"label {path} must have one 8-bit channel (or one of 16 bits) whose value is the class id, "
            f"got mode {label.mode} ({len(label.getbands())} channels): {_WAYS_OUT.get(label.mode, _ONE_CHANNEL)}"
        )
    if label.mode.startswith("I"):
        return np.array(label).astype(np.uint16)
    with path.open("rb") as file:
        bits = file.read(25)[24]
    scale = 255 // (2**bits - 1) if label.mode == "L" else 1  # Pillow scales grey values of 2 and 4 bits to 0..255
    return np.array(label) // scale if scale > 1 else np.array(label)


def open_image(path: Path, role: str) -> tuple[Image.Image, int]:
    """Opens an image and turns it as its EXIF orientation says; returns it and the orientation, 1 if there is none."""
    try:
        with Image.open(path) as image:
            # A phone's JPEG may hold more pictures after the photo (MPO); other files with several are no photo.
            if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
                raise ValueError(f"it must hold one picture, got {frames}")
            image.load()
            orientation = _orientation(image)
            turned = image.transpose(_TURNS[orientation]) if orientation > 1 else image
            turned.format = image.format
            return turned, orientation
    except Exception as error:  # the decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise ValueError(f"{role} {path} must be a readable image file: {error}") from error


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(Base.Orientation)
    except Exception:  # damaged EXIF data say nothing, and the pixels are as good as without
        return 1
    return orientation if orientation in _TURNS else 1
