"""The data set ``folder`` reads a user's own images and labels."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..tasks import SemanticTask
from ..tasks.semantic import VOID
from .base import Transform
from .files import FileDataset, parallel_map, read_label, read_task

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


class Folder(FileDataset):
    """Reads a folder with ``images/`` and ``labels/``: each image has a label of the same name in the same sub-folder.

    A label is a PNG of one 8-bit channel whose value is the class id, 255 for void. The classes come from
    ``classes.json`` or ``classes.txt`` (see ``read_task``); without them, the highest id in the labels of all splits is
    the last class. If ``images/`` has folders ``train``, ``val`` or ``test``, they are the splits. If not, one in ten
    images (at least one) is for ``val``, one in ten for ``test`` and the rest for ``train``, in the order of the
    SHA-256 of their names.

    Args:
        split: "train", "val" or "test".
        root: the folder.
        cache: whether to keep the decoded samples in memory, 4 bytes per pixel.
        transform: a function of a sample, applied to each.

    Raises:
        FileNotFoundError: the root, its images, a split or a label is missing.
        ValueError: two images have the same name, an image lies outside the splits, there are too few images or
            classes, or a file is bad; see ``FileDataset``.
    """

    def __init__(
        self,
        split: str,
        root: str | Path,
        cache: bool = False,
        transform: Transform | None = None,
    ) -> None:
        root = Path(root)
        images = _images(root)
        labels = {name: root / "labels" / f"{name}.png" for name in images}
        names = [name for name, found in _splits(images).items() if found == split]
        if split in self.splits and not names:
            raise FileNotFoundError(f"split {split!r} must have images: none in {root / 'images' / split}")
        files = [path for path in (root / "classes.json", root / "classes.txt") if path.is_file()]
        task = read_task(files[0]) if files else _counted_task(list(labels.values()))
        pairs = [(images[name], labels[name]) for name in names]
        super().__init__(split, pairs, names, task, cache, transform)


def _images(root: Path) -> dict[str, Path]:
    """The file of each image by its name, which is the path below ``images/`` without the suffix; sorted by paths."""
    folder = root / "images"
    if not folder.is_dir():
        raise FileNotFoundError(f"root must be a folder with images/ and labels/: no folder {folder}")
    images: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in images:
                raise ValueError(f"images must differ in more than their suffixes, got {images[name]} and {path}")
            images[name] = path
    if not images:
        raise FileNotFoundError(f"{folder} must have images ({', '.join(_SUFFIXES)}), found none")
    return images


def _splits(images: dict[str, Path]) -> dict[str, str]:
    """The split of each image, by the image's name: its top folder if any of these is a split, else by hash."""
    top_folders = {name: name.split("/")[0] for name in images}
    if not set(top_folders.values()).isdisjoint(Folder.splits):
        for name, folder in top_folders.items():
            if folder not in Folder.splits:
                raise ValueError(
                    f"image {images[name]} must lie in images/train, images/val or images/test, as others do"
                )
        return top_folders
    if len(images) < 3:
        raise ValueError(
            f"root must have at least 3 images to divide into train, val and test (or folders of these names below "
            f"images/), got {len(images)}"
        )
    shuffled = sorted(images, key=lambda name: hashlib.sha256(name.encode()).digest())
    tenth = max(1, round(len(images) / 10))
    held_out = {name: "val" for name in shuffled[:tenth]} | {name: "test" for name in shuffled[tenth : 2 * tenth]}
    return {name: held_out.get(name, "train") for name in images}


def _counted_task(labels: list[Path]) -> SemanticTask:
    """Makes the task whose last class is the highest id in the labels; names and colours are made up."""

    def highest(path: Path) -> int:
        if not path.is_file():
            raise FileNotFoundError(f"image must have a label: no file {path}")
        values = read_label(path)
        values = values[values != VOID]
        return int(values.max()) if len(values) else 0

    count = 1 + max(parallel_map(highest, labels))
    if count < 2:
        raise ValueError("labels must hold at least 2 class ids, got only id 0 (and 255, which is void)")
    return SemanticTask(classes=tuple(f"class {i}" for i in range(count)))
