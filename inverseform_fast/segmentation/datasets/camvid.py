"""CamVid has street photographs from a driving car, in 11 classes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from .base import Transform
from .classes import read_task
from .files import FileDataset, Pair, by_lower_suffix, check_root, find_files, read_names
from .label_map import LabelMap, Pairs

_SEGMENT, _SHARE, _GAP = 60, 0.15, 3  # frames in a segment, share of them held out, frames dropped on either side


class CamVid(FileDataset):
    """Reads CamVid: ``images/SPLIT/NAME.jpg``, ``labels/SPLIT/NAME.png``, ``SPLIT.txt`` (names) and ``classes.json``.

    The official ``val`` is 7 seconds of one video, too little to choose hyper-parameters on. The splits ``fit`` and
    ``holdout`` divide the train frames for that purpose: each video is cut into segments of about 60 frames; the middle
    15 % of a segment are held out, and 3 frames on either side belong to neither split, because neighbouring frames
    look alike. The 367 train frames give 276 frames to ``fit`` and 55 to ``holdout``.

    Args:
        split: "train", "val", "test", "fit" or "holdout".
        root: folder of the data set.
        cache: whether to keep the decoded samples in memory (250 MB for ``train``).
        transform: a function of a sample, applied to each.
        label_map: the class of each value of the label files; see :class:`.LabelMap`.

    Raises:
        FileNotFoundError: the folder, a list of names or a file of a sample is missing.
        ValueError: the split is unknown, its list is empty or has a name twice, or a file is bad; see ``FileDataset``.
    """

    splits = ("train", "val", "test", "fit", "holdout")

    def __init__(
        self,
        split: str,
        root: str | Path,
        cache: bool = False,
        transform: Transform | None = None,
        label_map: Pairs | None = None,
    ) -> None:
        values = None if label_map is None else LabelMap(label_map)
        root = check_root(root)
        folder = "train" if split in ("fit", "holdout") else split
        names = read_names(root / f"{folder}.txt") if split in self.splits else []
        if split in ("fit", "holdout"):
            names = split_frames(names)[split == "holdout"]
        images, labels = (
            _files(root / kind / folder, suffix) for kind, suffix in (("images", "jpg"), ("labels", "png"))
        )
        pairs = [Pair(images(name), labels(name)) for name in names]
        super().__init__(split, pairs, names, read_task(root / "classes.json"), cache, transform, values)


def _files(folder: Path, suffix: str) -> Callable[[str], Path]:
    """Returns the file of each name in a folder, whose suffix may have capital letters."""
    found = by_lower_suffix(find_files(folder)) if folder.is_dir() else {}
    return lambda name: found.get(path := folder / f"{name}.{suffix}", path)


def split_frames(names: list[str]) -> tuple[list[str], list[str]]:
    """Divides frames with names ``VIDEO_FRAME`` into those to fit and those to hold out; see ``CamVid``."""
    fit, holdout = [], []
    for _, group in groupby(sorted(names), key=lambda name: name.rpartition("_")[0]):
        frames = list(group)
        count = max(1, round(len(frames) / _SEGMENT))
        for i in range(count):
            segment = frames[len(frames) * i // count : len(frames) * (i + 1) // count]
            held = round(_SHARE * len(segment))
            start = (len(segment) - held) // 2
            fit += segment[: max(0, start - _GAP)] + segment[start + held + _GAP :]
            holdout += segment[start : start + held]
    return fit, holdout
