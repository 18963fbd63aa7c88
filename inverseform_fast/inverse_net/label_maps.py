"""Networks are trained and calibrated on label maps: procedural ones, those of a data set, or PNG files of a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Generator, Tensor
from torchvision.transforms import v2

from ..scenes import shapes as abstract_shapes
from ..scenes import street
from ..segmentation.datasets import build_dataset
from ..segmentation.datasets.files import parallel_map, read_label
from ..segmentation.progress import track

VOID = 255


def collect_label_maps(
    data: str, split: str, root: Path | None, size: tuple[int, int], scenes: int, shapes: int, seed: int
) -> Tensor:
    """Makes label maps ``(M, H, W)`` uint8, or reads those of a data set.

    Args:
        data: "scenes" for procedural street scenes and abstract shapes, or the name of a data set.
        split, root: split and folder of the data set; not used for "scenes".
        size: (height, width) in pixels; maps of a data set are resized to it, to the nearest pixel.
        scenes, shapes: numbers of procedural street scenes and of abstract shapes; used for "scenes" only.
        seed: seed of the procedural maps.

    Raises:
        FileNotFoundError: a file of the data set is missing.
        ValueError: the size is not positive, no map is asked for, or the data set is wrong; see
            :func:`inverseform_fast.segmentation.datasets.build_dataset`.
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
    return torch.stack(
        [resize(dataset[index]["semantic"]).as_subclass(Tensor) for index in track(range(len(dataset)), "label maps")]
    )


def read_label_maps(folder: Path, limit: int = 128) -> list[Tensor]:
    """Reads label maps ``(H, W)`` uint8, of any sizes, from the PNG files of a folder and of its sub-folders.

    If there are more than ``limit`` files, it reads only every second one, or every third one, and so on.

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
    """Returns the class ids ``(K,)`` that occur in label maps, in order.

    Raises:
        ValueError: there are fewer than two ids, so the maps show no boundary.
    """
    ids = label_maps.unique()
    ids = ids[ids != VOID]
    if len(ids) < 2:
        raise ValueError(f"label_maps must hold at least two classes, got {ids.tolist()}")
    return ids
