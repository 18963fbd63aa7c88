"""The label maps that networks are trained and calibrated on: made ones, those of a data set, or a folder of PNGs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Generator, Tensor
from torchvision.transforms import v2

from ..scenes import shapes as abstract_shapes
from ..scenes import street
from ..segmentation.datasets import build_dataset
from ..segmentation.datasets.files import parallel_map, read_label

VOID = 255


def collect_label_maps(
    data: str, split: str, root: Path | None, size: tuple[int, int], scenes: int, shapes: int, seed: int
) -> Tensor:
    """Label maps ``(M, H, W)`` uint8 of ``size`` (height, width), made or from a data set.

    Args:
        data: "scenes" for procedural street scenes and abstract shapes, or the name of a data set.
        split, root: of the data set.
        size: made maps have this height and width, and those of a data set are resized to it.
        scenes, shapes: how many of each are made.
        seed: of those that are made.

    Raises:
        FileNotFoundError, ValueError: see :func:`inverseform_fast.segmentation.datasets.build_dataset`.
    """
    if min(size) < 1:
        raise ValueError(f"size must be a positive (height, width), got {size}")
    if data == "scenes":
        if min(scenes, shapes) < 0 or scenes + shapes == 0:
            raise ValueError(f"scenes and shapes must be at least 0, and one of them positive, got {scenes}, {shapes}")
        generator = Generator().manual_seed(seed)
        made = street.label_maps(scenes, *size, generator), abstract_shapes.label_maps(shapes, *size, generator)
        return torch.cat(made)
    dataset = build_dataset(data, split, root)
    resize = v2.Resize(size, v2.InterpolationMode.NEAREST_EXACT)
    return torch.stack([resize(dataset[index]["semantic"]).as_subclass(Tensor) for index in range(len(dataset))])


def read_label_maps(folder: Path, limit: int = 128) -> list[Tensor]:
    """Label maps ``(H, W)`` uint8, of any sizes, from the PNG files of a folder and of its sub-folders.

    If there are more than ``limit`` files, only every second one is read, or every third one, and so on.

    Raises:
        FileNotFoundError: there is no such folder, or no PNG in it.
        ValueError: a file cannot be read, or has other than one 8-bit channel; the message names it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"labels must be a folder of PNG label maps: no folder {folder}")
    paths = sorted(folder.rglob("*.png"))
    if not paths:
        raise FileNotFoundError(f"labels must hold PNG files whose pixel values are class ids: none below {folder}")
    return parallel_map(read_label, paths[:: -(-len(paths) // limit)])


def class_ids(label_maps: Tensor) -> Tensor:
    """The class ids ``(K,)`` that occur in label maps, in order.

    Raises:
        ValueError: there are fewer than two, so the maps show no boundary.
    """
    ids = label_maps.unique()
    ids = ids[ids != VOID]
    if len(ids) < 2:
        raise ValueError(f"label_maps must hold at least two classes, got {ids.tolist()}")
    return ids
