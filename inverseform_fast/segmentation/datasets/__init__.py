"""Data sets: a new one is one new file and one line here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base import Sample, SegmentationDataset
from .camvid import CamVid
from .folder import Folder
from .scenes import Scenes

__all__ = ["DATASETS", "CamVid", "Folder", "Sample", "Scenes", "SegmentationDataset", "build_dataset"]

DATASETS: dict[str, type[SegmentationDataset]] = {"scenes": Scenes, "camvid": CamVid, "folder": Folder}


def build_dataset(name: str, split: str, root: str | Path | None = None, **options: Any) -> SegmentationDataset:
    """A data set of the registry.

    Args:
        name: key of ``DATASETS``.
        split: "train", "val" or "test", and what else the data set has.
        root: its folder, for those that read files.
        options: more arguments of its class.

    Raises:
        ValueError: an unknown name or split, or a root where none belongs or the other way round.
        FileNotFoundError, ValueError: a file is missing or bad; see the classes.
    """
    if name not in DATASETS:
        raise ValueError(f"data must be one of {', '.join(DATASETS)}, got {name!r}")
    dataset_type = DATASETS[name]
    if dataset_type.needs_root == (root is None):
        wanted = "the folder of the data set" if dataset_type.needs_root else "None"
        raise ValueError(f"root must be {wanted} for {name}, got {root!r}")
    if root is not None:
        options["root"] = root
    return dataset_type(split=split, **options)
