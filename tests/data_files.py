"""Tests of data sets share small folders of images and labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from inverseform_fast.segmentation.datasets import SegmentationDataset
from inverseform_fast.segmentation.tasks import SemanticTask

CLASSES = ("sky", "road", "car")


def write_pair(
    root: Path, name: str, suffix: str = ".jpg", label: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Writes an image ``images/NAME`` and a label ``labels/NAME.png`` of 20x30 pixels; returns the label."""
    rng = np.random.default_rng(seed)
    if label is None:
        label = rng.choice(np.array([0, 1, 2, 255], np.uint8), (20, 30))
    image = root / "images" / f"{name}{suffix}"
    target = root / "labels" / f"{name}.png"
    for path in (image, target):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(image)
    Image.fromarray(label).save(target)
    return label


def make_camvid(root: Path) -> Path:
    for split, count in (("train", 80), ("val", 3), ("test", 2)):
        names = [f"{split}V{i % 2}_{i // 2:05d}" for i in range(count)]
        for i, name in enumerate(names):
            write_pair(root, f"{split}/{name}", seed=i)
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")
    entries = [{"id": i, "name": name, "color": [i, 0, 255 - i]} for i, name in enumerate(CLASSES)]
    (root / "classes.json").write_text(json.dumps({"ignore_index": 255, "classes": entries}))
    return root


def make_folder(root: Path) -> Path:
    for split, count in (("train", 4), ("val", 3), ("test", 2)):
        for i in range(count):
            write_pair(root, f"{split}/{split}V{i % 2}_{i // 2:05d}", seed=i)
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


MAKERS: dict[str, Callable[[Path], Path]] = {"camvid": make_camvid, "folder": make_folder}


def semantic(dataset: SegmentationDataset) -> SemanticTask:
    task = dataset.tasks["semantic"]
    assert isinstance(task, SemanticTask)
    return task
