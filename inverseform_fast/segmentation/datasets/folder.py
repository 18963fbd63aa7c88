"""The data set ``folder`` reads a user's own images and labels."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np

from ..tasks import SemanticTask
from ..tasks.semantic import VOID
from .base import Transform
from .classes import read_task
from .files import FileDataset, Pair, by_lower_suffix, find_files, parallel_map, read_values
from .label_counts import listed, map_of
from .label_map import LabelMap, Pairs

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
_SPLITS |= {"test": "test", "testing": "test"}
_LIKE_A_SPLIT = re.compile(  # such as train2017, val_set or leftImg8bit_train; but not valley, contest, train_station
    r"(^|[^a-z])(train|training|trn|trainval|val|valid|validation|validate|minival|test|testing|tst|dev|development"
    r"|eval|evaluation|holdout)[^a-z]*(set|split|data|images|imgs)?[^a-z]*$",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # such as train and A in trainA
_LISTS = (".txt", ".csv", ".json", ".lst")


class Folder(FileDataset):
    """Reads a folder with ``images/`` and ``labels/``: each image has a label of the same name in the same sub-folder.

    A label is a PNG of one channel whose value is the class id, 255 for void, unless ``label_map`` says what its values
    are. The classes come from ``classes.json`` or ``classes.txt`` (see ``read_task``); without them, the highest id of
    the label map, or else in the labels of all splits, is the last class.

    If ``images/`` has folders ``train`` (or ``training``), ``val`` (``valid``, ``validation``) or ``test``
    (``testing``), in small letters or not, they are the splits. If not, one in ten images (at least one) is for
    ``val``, one in ten for ``test`` and the rest for ``train``, in the order of the SHA-256 of their names. Links are
    followed, and files and folders whose names begin with a dot are left out.

    Args:
        split: "train", "val" or "test".
        root: the folder.
        cache: whether to keep the decoded samples in memory, 4 bytes per pixel.
        transform: a function of a sample, applied to each.
        label_map: the class of each value of the label files, such as ``"0:0,255:1"``; see :class:`.LabelMap`.

    Raises:
        FileNotFoundError: the root, its images, a split or a label is missing, or a link leads nowhere.
        ValueError: two images have the same name, an image lies outside the splits, folders, files or lists look
            like splits of other names, there are two lists of classes, there are too few images or classes, fewer than
            half of the classes that were counted occur, or a file is bad; see ``FileDataset``.
    """

    def __init__(
        self,
        split: str,
        root: str | Path,
        cache: bool = False,
        transform: Transform | None = None,
        label_map: Pairs | None = None,
    ) -> None:
        root = Path(root)
        values = None if label_map is None else LabelMap(label_map)
        images, others = _images(root)
        files = by_lower_suffix(_files_in(root / "labels"))
        wanted = {name: root / "labels" / f"{name}.png" for name in images}
        by_split = {_of_split(path.relative_to(root / "labels")): path for path in files}
        same = {name: by_split.get(_of_split(path.relative_to(root / "labels")), path) for name, path in wanted.items()}
        labels = {name: files.get(path, files.get(same[name], path)) for name, path in wanted.items()}
        names = [name for name, found in _splits(root, images).items() if found == split]
        if split in self.splits and not names:
            raise FileNotFoundError(f"split {split!r} must have images: none in {root / 'images' / split}")
        lists = sorted(path for path in root.iterdir() if path.name.lower() in ("classes.json", "classes.txt"))
        if len(lists) > 1:
            raise ValueError(f"root must hold one list of classes, got {' and '.join(map(str, lists))}")
        task = read_task(lists[0]) if lists else _counted_task(labels.values(), values)
        pairs = [Pair(images[name], labels[name]) for name in names]
        alone = sum(path.suffix == ".png" for path in files.keys() - {*wanted.values(), *same.values()})
        super().__init__(split, pairs, names, task, cache, transform, values, _remarks(others, alone))


def _of_split(path: Path) -> Path:
    """The path with the split's usual name in place of its top folder's, such as train for Training."""
    return Path(_SPLITS.get(path.parts[0].lower(), path.parts[0]), *path.parts[1:])


def _files_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"root must be a folder with images/ and labels/: no folder {folder}")
    return find_files(folder)


def _images(root: Path) -> tuple[dict[str, Path], Counter[str]]:
    """The file of each image by its name, and how many files have which other suffix.

    A name is the path below ``images/`` without the suffix. They are sorted by paths.
    """
    folder = root / "images"
    images: dict[str, Path] = {}
    others: Counter[str] = Counter()
    for path in _files_in(folder):
        if path.suffix.lower() not in _SUFFIXES:
            others[path.suffix.lower() or "no suffix"] += 1
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in images:
            raise ValueError(f"images must differ in more than their suffixes, got {images[name]} and {path}")
        images[name] = path
    if not images:
        raise FileNotFoundError(f"{folder} must have images ({', '.join(_SUFFIXES)}), found none")
    return images, others


def _remarks(others: Counter[str], labels_alone: int) -> list[str]:
    kinds = [f"{count} of {suffix}" for suffix, count in sorted(others.items())]
    return [
        *([f"passed over {others.total()} files in images/ ({listed(kinds)})"] if others else []),
        *([f"{labels_alone} labels have no image"] if labels_alone else []),
    ]


def _splits(root: Path, images: dict[str, Path]) -> dict[str, str]:
    """The split of each image, by the image's name: that of its top folder if any of these is a split, else by hash."""
    folders = {name: name.split("/")[:-1] for name in images}
    top_folders = {parts[0] for parts in folders.values() if parts}
    splits = {folder: _SPLITS[folder.lower()] for folder in sorted(top_folders) if folder.lower() in _SPLITS}
    if splits:
        _check_folders(root / "images", splits)
        for name, parts in folders.items():
            if not parts or parts[0] not in splits:
                raise ValueError(
                    f"image {images[name]} must lie in images/train, images/val or images/test, as others do"
                )
        return {name: splits[parts[0]] for name, parts in folders.items()}
    _check_for_splits(root, folders)
    if len(images) < 3:
        raise ValueError(
            f"root must have at least 3 images to divide into train, val and test (or folders of these names below "
            f"images/), got {len(images)}"
        )
    _check_for_copies(images)
    # A name that is no UTF-8 has half characters in place of its bytes.
    shuffled = sorted(images, key=lambda name: hashlib.sha256(name.encode(errors="surrogateescape")).digest())
    tenth = max(1, round(len(images) / 10))
    held_out = {name: "val" for name in shuffled[:tenth]} | {name: "test" for name in shuffled[tenth : 2 * tenth]}
    return {name: held_out.get(name, "train") for name in images}


def _check_folders(images: Path, splits: dict[str, str]) -> None:
    """Raises an error if two folders are one split."""
    for split, count in Counter(splits.values()).items():
        if count > 1:
            names = [folder for folder, found in splits.items() if found == split]
            raise ValueError(f"{images} must have one folder for the split {split}, got {' and '.join(names)}")


def _check_for_splits(root: Path, folders: dict[str, list[str]]) -> None:
    """Raises an error if images that are to be divided by chance seem to be divided already."""
    rule = "name the folders below images/ train, val and test, or by words that do not look like splits"
    for name, parts in folders.items():
        if looks := [part for part in parts if _LIKE_A_SPLIT.search(part)]:
            raise ValueError(
                f"the splits of {root} must be clear, but the folder {looks[0]} of images/{name} looks like one: {rule}"
            )
    in_folders = {split: name for name, parts in folders.items() for part in parts for split in _splits_in(part)}
    in_files = [{split: name for split in _splits_in(name.rpartition("/")[2])} for name in folders]
    in_all_files = {split: name for found in in_files for split, name in found.items()} if all(in_files) else {}
    for found in (in_folders, in_all_files):
        if len(found) > 1:
            names = " and ".join(f"images/{name}" for name in found.values())
            raise ValueError(f"the splits of {root} must be clear, but {names} seem to be of different ones: {rule}")
    others = [path for path in root.glob("*") if path.name not in ("images", "labels")]
    files = [*others, *(path for other in others for pattern in ("*", "*/*") for path in other.glob(pattern))]
    lists = sorted(path for path in files if path.suffix in _LISTS and path.stem.lower() in {*_SPLITS, "trainval"})
    if lists:
        name = lists[0].relative_to(root).as_posix()
        raise ValueError(f"the splits of {root} must be clear, but lists such as {name} are not read: {rule}")


def _splits_in(name: str) -> set[str]:
    """The splits whose names are words of a name, such as train of ADE_train_00000001."""
    return {_SPLITS[word] for word in map(str.lower, _WORD.findall(name)) if word in _SPLITS}


def _check_for_copies(images: dict[str, Path]) -> None:
    """Raises an error if links lead to one file twice, which chance might put into train and into val."""
    found: dict[Path, Path] = {}
    for path in images.values():
        if (first := found.setdefault(path.resolve(), path)) != path:
            raise ValueError(f"images must be files of their own to be divided into splits, but {path} is {first}")


def _counted_task(labels: Collection[Path], label_map: LabelMap | None) -> SemanticTask:
    """Makes the task whose last class is the highest id in the labels; names and colours are made up."""
    if label_map is None:
        there = [path for path in labels if path.is_file()]  # of a test split, perhaps, nobody has any
        if not there:
            raise FileNotFoundError(f"images must have labels: no file {next(iter(labels))}")
        ids = sorted(set[int]().union(*parallel_map(_values_of, there)) - {VOID})
        count = ids[-1] + 1 if ids else 0
        if count > VOID or 2 * len(ids) < count:
            raise ValueError(
                f"labels without a list of classes must hold the ids 0, 1, 2 and so on, got {count} classes, of which "
                f"{len(ids)} occur ({listed(ids)}): list the classes in classes.txt, or say what the values are, as by "
                f"--data-option label_map={map_of(ids, range(len(ids)))}"
            )
        found = f"only id {', '.join(map(str, ids)) or 'none'} (and 255, which is void)"
    else:
        count, found = label_map.channels, "a label_map of fewer"
    if count < 2:
        raise ValueError(
            f"labels must hold at least 2 class ids, got {found}: if 255 is a class, say so by "
            "--data-option label_map=0:0,255:1"
        )
    return SemanticTask(classes=tuple(f"class {i}" for i in range(count)))


def _values_of(path: Path) -> set[int]:
    return set(np.bincount(read_values(path).ravel()).nonzero()[0].tolist())
