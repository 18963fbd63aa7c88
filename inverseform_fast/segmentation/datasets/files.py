"""Image files, label files and lists of classes are read and checked here."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..tasks import RGB, SemanticTask
from ..tasks.semantic import VOID, palette
from .base import Sample, SegmentationDataset, Transform

_T = TypeVar("_T")
_R = TypeVar("_R")
_IMAGE_MODES = ("RGB", "RGBA", "L", "LA", "P", "CMYK")  # 8 bits per channel: others would be clipped on conversion


class FileDataset(SegmentationDataset):
    """Reads samples from an image file and a label file each.

    A label file is an 8-bit single-channel PNG whose pixel values are class ids, 255 for void. Every file is read once
    at the start, so that a bad one stops the program there and not hours later.

    Args:
        split: one of ``splits``.
        pairs: image file and label file of each sample.
        names: the name of each sample, in order.
        task: the semantic task with the data set's classes.
        cache: whether to keep the decoded samples in memory, 4 bytes per pixel.
        transform: a function of a sample, applied to each.

    Raises:
        FileNotFoundError: a file is missing; the message names it.
        ValueError: the split is unknown; or a file cannot be read, an image and its label differ in size, or a label
            has more than one 8-bit channel or an id that is neither a class nor 255. The message names the file.
    """

    def __init__(
        self,
        split: str,
        pairs: Sequence[tuple[Path, Path]],
        names: Sequence[str],
        task: SemanticTask,
        cache: bool,
        transform: Transform | None,
    ) -> None:
        super().__init__(split, [task], names, transform)
        self.pairs, self._num_classes = pairs, task.channels
        for name, (image, label) in zip(names, pairs, strict=True):
            if not image.is_file():
                raise FileNotFoundError(f"image of {name} must exist: no file {image}")
            if not label.is_file():
                raise FileNotFoundError(f"image {image} must have a label: no file {label}")

        def check(pair: tuple[Path, Path]) -> Sample | None:
            sample = read_pair(*pair, self._num_classes)
            return sample if cache else None  # a sample that is returned would stay in memory

        self._cache = parallel_map(check, pairs)

    def read(self, index: int) -> Sample:
        return self._cache[index] or read_pair(*self.pairs[index], self._num_classes)

    def label_file(self, index: int) -> Path:
        return self.pairs[index][1]


def parallel_map(function: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """Applies a function to each item, in a few threads: decoding an image releases the interpreter's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def read_pair(image_path: Path, label_path: Path, num_classes: int) -> Sample:
    """Reads and checks a sample: ``"image"`` uint8 (3, H, W) RGB and ``"semantic"`` uint8 (H, W)."""
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
    unknown = labels[(labels >= num_classes) & (labels != VOID)]
    if len(unknown):
        raise ValueError(
            f"label {label_path} must have class ids 0..{num_classes - 1} or {VOID} "
            f"for void, also got {', '.join(map(str, unknown.unique().tolist()))}"
        )
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
    return {"image": pixels, "semantic": labels}


def read_label(path: Path) -> Tensor:
    """Reads a label file as class ids (H, W) uint8.

    Raises:
        ValueError: the file cannot be read, or has other than one 8-bit channel; the message names it.
    """
    label = _open(path, "label")
    if label.mode not in ("L", "P"):
        raise ValueError(
            f"label {path} must have one 8-bit channel whose value is the class id, "
            f"got mode {label.mode} ({len(label.getbands())} channels)"
        )
    return torch.from_numpy(np.array(label))


def _open(path: Path, role: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except Exception as error:  # the decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise ValueError(f"{role} {path} must be a readable image file: {error}") from error


def read_task(path: Path) -> SemanticTask:
    """Makes the semantic task with the classes of a ``classes.json`` or a ``classes.txt``.

    The JSON is a list, or an object with a list ``classes``. Its entries are names, or objects with a ``name`` and,
    optionally, a ``color`` (RGB 0..255) and an ``id`` (the position in the list). A text file has one name in each
    line. A class without a colour gets one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else; the message names it.
    """
    entries = _class_entries(path)
    if not isinstance(entries, list):
        raise ValueError(f"{path} must list 2 to 255 classes, got {type(entries).__name__} in place of a list")
    if not 2 <= len(entries) <= 255:
        raise ValueError(f"{path} must list 2 to 255 classes, got {len(entries)}")
    names, colors = [], list(palette(len(entries)))
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
            colors[position] = _color(entry["color"], f"class {entry['name']} of {path}")
    return SemanticTask(classes=tuple(names), colors=tuple(colors))


def _class_entries(path: Path) -> object:
    """Returns what the file holds in the place of the list of classes; it may be anything."""
    if not path.is_file():
        raise FileNotFoundError(f"root must hold a list of classes: no file {path}")
    if path.suffix != ".json":
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must be JSON: {error}") from error
    if not isinstance(content, dict):
        return content
    if content.get("ignore_index", VOID) != VOID:
        raise ValueError(f"ignore_index of {path} must be {VOID}, got {content['ignore_index']!r}")
    return content.get("classes")


def _color(value: object, owner: str) -> RGB:
    if not isinstance(value, list) or [type(v) for v in value] != [int] * 3 or not 0 <= min(value) <= max(value) <= 255:
        raise ValueError(f"color of {owner} must be three integers 0..255, got {value!r}")
    return value[0], value[1], value[2]
