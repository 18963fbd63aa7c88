"""The registry of data sets: a new data set is one new file and one line here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base import Sample, SegmentationDataset
from .camvid import CamVid
from .folder import Folder
from .nyud import NYUDMT, NYUDRGBD
from .pascal import PascalMT
from .scenes import Scenes

__all__ = [
    "DATASETS",
    "NYUDMT",
    "NYUDRGBD",
    "CamVid",
    "Folder",
    "PascalMT",
    "Sample",
    "Scenes",
    "SegmentationDataset",
    "build_dataset",
]

DATASETS: dict[str, type[SegmentationDataset]] = {
    "scenes": Scenes,
    "camvid": CamVid,
    "folder": Folder,
    "nyud_mt": NYUDMT,
    "nyud_rgbd": NYUDRGBD,
    "pascal_mt": PascalMT,
}


def build_dataset(name: str, split: str, root: str | Path | None = None, /, **options: Any) -> SegmentationDataset:
    """Makes a data set of the registry.

    Args:
        name: a key of ``DATASETS``.
        split: "train", "val", "test", or another split that the data set has.
        root: the folder of a data set that reads files.
        options: more arguments of the data set's class.

    Raises:
        ValueError: the name, the split or an option is unknown, ``root`` is missing or superfluous, an option has a bad
            value, or a file is bad.
        FileNotFoundError: a file is missing.
    """
    if name not in DATASETS:
        raise ValueError(f"data must be one of {', '.join(DATASETS)}, got {name!r}")
    dataset_type = DATASETS[name]
    if dataset_type.needs_root == (root is None):
        expected = "the folder that holds the data set" if dataset_type.needs_root else "left out for the data set"
        raise ValueError(f"root must be {expected} {name!r}, got {root!r}")
    place: dict[str, Any] = {} if root is None else {"root": root}
    try:
        return dataset_type(split=split, **place, **options)
    except TypeError as error:
        raise ValueError(f"data_options must be arguments of the data set {name!r}: {error}") from error
