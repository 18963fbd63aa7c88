"""CamVid: street photographs from a driving car, 11 classes."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from .base import Transform
from .files import FileDataset, read_task

_SEGMENT, _SHARE, _GAP = 60, 0.15, 3  # frames to a segment, share held out of it, frames dropped on either side


class CamVid(FileDataset):
    """CamVid as ``images/SPLIT/NAME.jpg``, ``labels/SPLIT/NAME.png``, ``SPLIT.txt`` (the names) and ``classes.json``.

    The official ``val`` is 7 seconds of one video, too little to choose hyper-parameters on. ``fit`` and ``holdout``
    part the train frames for that purpose: each video is cut into segments of about 60 frames; the middle 15 % of a
    segment are held out, and 3 frames on either side belong to neither, because neighbouring frames look alike. On the
    367 train frames this gives 276 and 55.

    Args:
        split: "train", "val", "test", "fit" or "holdout".
        root: folder of the data set.
        cache: keep the decoded samples in memory (250 MB for ``train``).
        transform: applied to each sample.

    Raises:
        FileNotFoundError, ValueError: see ``FileDataset``.
    """

    splits = ("train", "val", "test", "fit", "holdout")

    def __init__(
        self,
        split: str,
        root: str | Path,
        cache: bool = False,
        transform: Transform | None = None,
    ) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"root must be the folder of the data set: no folder {root}")
        folder = "train" if split in ("fit", "holdout") else split
        names = _read_names(root / f"{folder}.txt") if split in self.splits else []
        if split in ("fit", "holdout"):
            names = part(names)[split == "holdout"]
        pairs = [(root / "images" / folder / f"{name}.jpg", root / "labels" / folder / f"{name}.png") for name in names]
        super().__init__(split, pairs, names, read_task(root / "classes.json"), cache, transform)


def _read_names(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"list of the split's frames must exist: no file {path}")
    return path.read_text().split()


def part(names: list[str]) -> tuple[list[str], list[str]]:
    """Part the frames ``VIDEO_FRAME`` of some videos into those to fit and those to hold out; see ``CamVid``."""
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
