"""One's own images and labels."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..tasks import SemanticTask
from ..tasks.semantic import VOID
from .base import Transform
from .files import FileDataset, parallel_map, read_label, read_task

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


class Folder(FileDataset):
    """A folder with ``images/`` and ``labels/``, where each image has a label of the same name in the same sub-folder.

    A label is a PNG of one 8-bit channel whose value is the class id, 255 for void. The classes come from
    ``classes.json`` or ``classes.txt`` (see ``read_task``); without them there are as many as the labels of all
    splits have. If ``images/`` has folders ``train``, ``val`` or ``test``, they are the splits; if not, one in ten
    images (at least one) is for ``val``, one for ``test`` and the rest for ``train``, by the order of the SHA-256 of
    their names.

    Args:
        split: "train", "val" or "test".
        root: the folder.
        cache: keep the decoded samples in memory, 4 bytes per pixel.
        transform: applied to each sample.

    Raises:
        FileNotFoundError: the root, its images, a split or a label is missing. ValueError: two images have one name, an
            image lies outside the splits, there are too few images or classes; and see ``FileDataset``.
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
    """Name (the path below ``images/`` without its suffix) and file of each image, in order of names."""
    folder = root / "images"
    if not folder.is_dir():
        raise FileNotFoundError(f"root must be a folder with images/ and labels/: no folder {folder}")
    images: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in images:
                raise ValueError(f"images must have names of their own, got {images[name]} and {path}")
            images[name] = path
    if not images:
        raise FileNotFoundError(f"{folder} must have images ({', '.join(_SUFFIXES)}), found none")
    return images


def _splits(names: dict[str, Path]) -> dict[str, str]:
    """The split of each name: its first folder if any is a split, else by hash."""
    first = {name: name.split("/")[0] for name in names}
    if not set(first.values()).isdisjoint(Folder.splits):
        for name, split in first.items():
            if split not in Folder.splits:
                raise ValueError(
                    f"image {names[name]} must lie in images/train, images/val or images/test, as others do"
                )
        return first
    if len(names) < 3:
        raise ValueError(f"a folder without splits must have at least 3 images to part, got {len(names)}")
    shuffled = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    tenth = max(1, round(len(names) / 10))
    held = {name: "val" for name in shuffled[:tenth]} | {name: "test" for name in shuffled[tenth : 2 * tenth]}
    return {name: held.get(name, "train") for name in names}


def _counted_task(labels: list[Path]) -> SemanticTask:
    """As many classes as the labels have, with made-up names and colours."""

    def highest(path: Path) -> int:
        if not path.is_file():
            raise FileNotFoundError(f"image must have a label: no file {path}")
        values = read_label(path)
        values = values[values != VOID]
        return int(values.max()) if len(values) else 0

    count = 1 + max(parallel_map(highest, labels))
    if count < 2:
        raise ValueError("labels must have at least 2 classes, got only id 0 (and 255, which is void)")
    return SemanticTask(classes=tuple(f"class {i}" for i in range(count)))
