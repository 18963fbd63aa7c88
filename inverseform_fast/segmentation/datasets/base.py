"""What every segmentation data set has in common, and reading pairs of image and label files."""

from __future__ import annotations

import colorsys
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

_IMAGE_MODES = ("RGB", "RGBA", "L", "LA", "P", "CMYK")  # 8 bits per channel: others would be clipped on conversion


class SegmentationDataset(Dataset[dict[str, Tensor]]):
    """Images with a label map each.

    Attributes:
        classes: names of the classes; a class id is an index into them.
        colors: RGB 0..255 of each class, for pictures.
        ignore_index: the id of void pixels.
        names: name of each sample.
        splits: the splits that the data set has.
        needs_root: whether it reads files below a folder.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    needs_root: ClassVar[bool] = True
    ignore_index = 255
    classes: list[str]
    colors: list[tuple[int, int, int]]
    names: list[str]

    def __init__(self, split: str, transform: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None) -> None:
        if split not in self.splits:
            raise ValueError(f"split must be one of {', '.join(self.splits)}, got {split!r}")
        self.transform = transform

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Image uint8 (3, H, W) and segmentation uint8 (H, W), both tv_tensors, or what the transform makes of them."""
        image, labels = self.read(index)
        sample: dict[str, Tensor] = {"image": tv_tensors.Image(image), "segmentation": tv_tensors.Mask(labels)}
        return sample if self.transform is None else self.transform(sample)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image uint8 (3, H, W) and labels uint8 (H, W) of a sample."""
        raise NotImplementedError


class FileDataset(SegmentationDataset):
    """Pairs of an image file and a label file: an 8-bit single-channel PNG whose pixel value is the class id.

    Every file is read once at the start, so that a bad one stops the program there and not hours later.

    Args:
        split: one of ``splits``.
        pairs: image file and label file of each sample.
        names: name of each sample.
        classes, colors: see ``SegmentationDataset``.
        cache: keep the decoded samples in memory, 4 bytes per pixel.
        transform: applied to each sample.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file cannot be read, an image and its label differ in size, a label is not of one 8-bit channel
            or has an id that is neither a class nor 255.
        The message names the file.
    """

    def __init__(
        self,
        split: str,
        pairs: Sequence[tuple[Path, Path]],
        names: list[str],
        classes: list[str],
        colors: list[tuple[int, int, int]],
        cache: bool,
        transform: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None,
    ) -> None:
        super().__init__(split, transform)
        self.pairs, self.names, self.classes, self.colors = pairs, names, classes, colors
        for name, (image, label) in zip(names, pairs, strict=True):
            if not image.is_file():
                raise FileNotFoundError(f"image of {name} must exist: no file {image}")
            if not label.is_file():
                raise FileNotFoundError(f"image {image} must have a label: no file {label}")

        def check(pair: tuple[Path, Path]) -> tuple[Tensor, Tensor] | None:
            sample = read_pair(*pair, len(classes))
            return sample if cache else None  # a sample that is returned stays in memory

        checked = parallel_map(check, pairs)
        self._cache = checked if cache else None

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        if self._cache is not None:
            return self._cache[index]
        return read_pair(*self.pairs[index], len(self.classes))


def parallel_map(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """The function of each item, by a few threads (decoding releases the interpreter's lock)."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def read_pair(image_path: Path, label_path: Path, num_classes: int) -> tuple[Tensor, Tensor]:
    """Image uint8 (3, H, W) and labels uint8 (H, W), checked."""
    image = _open(image_path, "image")
    if image.mode not in _IMAGE_MODES:
        raise ValueError(f"image {image_path} must have 8 bits per channel, got mode {image.mode}")
    labels = read_label(label_path)
    height, width = labels.shape
    if image.size != (width, height):
        raise ValueError(
            f"label {label_path} must have the size of its image {image_path}, "
            f"{image.width}x{image.height} (width x height), got {width}x{height}"
        )
    unknown = labels[(labels >= num_classes) & (labels != SegmentationDataset.ignore_index)]
    if len(unknown):
        raise ValueError(
            f"label {label_path} must have class ids 0..{num_classes - 1} or {SegmentationDataset.ignore_index} "
            f"for void, got {', '.join(map(str, unknown.unique().tolist()))}"
        )
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous(), labels


def read_label(path: Path) -> Tensor:
    """Label file as uint8 (H, W)."""
    label = _open(path, "label")
    if label.mode not in ("L", "P"):
        raise ValueError(
            f"label {path} must have one 8-bit channel whose value is the class id, "
            f"got mode {label.mode} ({len(label.getbands())} channels)"
        )
    return torch.from_numpy(np.array(label))


def _open(path: Path, what: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except Exception as error:  # the decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise ValueError(f"{what} {path} must be a readable image file: {error}") from error


def read_classes(path: Path) -> tuple[list[str], list[tuple[int, int, int]]]:
    """Class names and colours of a ``classes.json`` or a ``classes.txt``.

    JSON: a list, or an object with a list ``classes``, of names or of objects with ``name``, and if wanted ``color``
    (RGB 0..255) and ``id`` (its position in the list). Text: one name a line. Colours that are not given are made up.

    Raises:
        FileNotFoundError: no such file. ValueError: its content is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"class list must exist: no file {path}")
    entries: Any = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if path.suffix == ".json":
        try:
            entries = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} must be JSON: {error}") from error
        if isinstance(entries, dict):
            if entries.get("ignore_index", 255) != 255:
                raise ValueError(f"ignore_index of {path} must be 255, got {entries['ignore_index']!r}")
            entries = entries.get("classes")
    if not isinstance(entries, list) or not 2 <= len(entries) <= 255:
        raise ValueError(f"{path} must list 2 to 255 classes")
    names, colors = [], palette(len(entries))
    for position, entry in enumerate(entries):
        entry = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ValueError(f"class {position} of {path} must have a name, got {entry!r}")
        if entry.get("id", position) != position:
            raise ValueError(
                f"class {entry['name']} of {path} must have its position {position} as id, got {entry['id']!r}"
            )
        names.append(entry["name"])
        if "color" in entry:
            colors[position] = _color(entry["color"], f"color of class {entry['name']} of {path}")
    return names, colors


def _color(value: Any, what: str) -> tuple[int, int, int]:
    if not isinstance(value, list) or [type(v) for v in value] != [int] * 3 or not 0 <= min(value) <= max(value) <= 255:
        raise ValueError(f"{what} must be three integers 0..255, got {value!r}")
    return value[0], value[1], value[2]


def palette(count: int) -> list[tuple[int, int, int]]:
    """Colours that are far apart in hue for classes that have none."""
    colors = []
    for i in range(count):
        red, green, blue = colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.45 + 0.4 * (i % 2), 0.55 + 0.2 * (i % 3))
        colors.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colors
