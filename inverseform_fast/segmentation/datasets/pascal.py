"""The data set of PASCAL VOC and PASCAL Context with the targets of five tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...checks import shown
from ..metrics.edges import thin
from ..tasks import EdgeTask, NormalsTask, PartsTask, SaliencyTask, SemanticTask
from ..tasks.semantic import VOID
from .base import Transform
from .files import check_size_of, parallel_map, read_label
from .label_map import LabelMap, Pairs, identity
from .maps import check_axes, load_mat, read_binary, read_normals
from .multi_task import MultiTaskFiles, Source

_NAMES = (
    "background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, "
    "motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"
)
CLASSES = tuple(_NAMES.split(", "))
_PERSON = 15
_GROUPS = (  # the names that PASCAL-Part has for the parts of each class from 1 on
    "hair head lear lebrow leye mouth nose rear rebrow reye",
    "neck torso",
    "luarm ruarm",
    "lhand llarm rhand rlarm",
    "luleg ruleg",
    "lfoot llleg rfoot rlleg",
)
_PARTS = {name: number for number, names in enumerate(_GROUPS, start=1) for name in names.split()}
# The classes of PASCAL Context, 1 to 459, whose normals are used: those that NYU-Depth-v2 has too, and tvmonitor.
_WITH_NORMALS = """
    3 4 6 9 10 11 13 15 17 18 22 23 29 30 33 34 36 37 38 39 41 43 46 49 50 51 53 55 56 59 61 62 65 66 68 69 72 73 78 83
    84 85 87 88 95 96 101 104 105 107 111 113 115 122 124 135 141 142 143 146 150 154 157 158 159 165 172 174 181 183
    184 191 193 195 197 199 202 213 215 216 219 220 223 225 228 230 232 233 238 239 242 243 246 250 251 252 255 260 261
    263 269 272 273 275 281 283 284 285 286 287 288 290 291 292 293 295 304 307 309 310 314 315 319 323 329 330 331 336
    342 345 349 350 351 352 355 357 368 370 371 374 379 380 383 384 397 401 403 405 407 408 411 412 413 414 417 419 421
    423 427 429 430 432 440 441 442 443 444 446 454 457
"""


class PascalMT(MultiTaskFiles):
    """Reads PASCAL as multi-task code has it on disk: 4998 images to train on and 5105 to test on.

    The folder has ``JPEGImages/ID.jpg``, the lists ``ImageSets/Context/train.txt`` and ``val.txt`` with one ID in a
    line, and of each task that is used:

    - ``semantic``: ``semseg/VOC12/ID.png``, or, where there is none, ``semseg/pascal-context/ID.png``; 21 classes of
      VOC, 255 for void.
    - ``parts``: ``human_parts/ID.mat`` of PASCAL-Part, the parts of people in 6 groups; an image without any is void.
    - ``edges``: made of ``LabelMap`` in ``pascal-context/trainval/ID.mat``: pixels where the Laplacian of the 459 class
      numbers is not 0, thinned.
    - ``normals``: the pictures ``normals_distill/ID.png``; void where the class in ``LabelMap`` is not one of the 170
      whose normals a network for rooms can know.
    - ``saliency``: ``sal_distill/ID.png``.

    Args:
        split: "train" or "val".
        root: folder of the data set.
        tasks: names of the tasks, in order: semantic, parts, edges, saliency, normals.
        people: whether to leave out the images without a part of a person, as training of parts alone does. All files
            of ``human_parts`` are then read at the start.
        label_map: the class of each value of the segmentation files; see :class:`.LabelMap`.
        normal_axes: what the three numbers of a normal in the files are. x points to the right, y up and z towards the
            camera; a minus turns an axis round. Only pictures and random rotations depend on y and z.
        transform: a function of a sample, applied to each.

    Raises:
        FileNotFoundError: the folder, the list of the split, a folder of a task or a file is missing.
        ValueError: the split, a task or an option is wrong, or no image shows a person. ``read`` raises it for a bad
            file.
    """

    splits = ("train", "val")

    def __init__(
        self,
        split: str,
        root: str | Path,
        tasks: Sequence[str] = ("semantic",),
        people: bool = False,
        label_map: Pairs | None = None,
        normal_axes: Sequence[str] = ("x", "-y", "z"),
        transform: Transform | None = None,
    ) -> None:
        labels = identity(len(CLASSES)) if label_map is None else LabelMap(label_map)
        read_labels = partial(read_label, label_map=labels)
        read_vectors = partial(_read_normals, axes=check_axes(normal_axes))
        image, context = "JPEGImages/{}.jpg", "pascal-context/trainval/{}.mat"
        sources = [
            Source(
                SemanticTask(classes=CLASSES),
                read_labels,
                [["semseg/VOC12/{}.png", "semseg/pascal-context/{}.png"]],
            ),
            Source(PartsTask(), _read_parts, [["human_parts/{}.mat"], [image]]),
            Source(EdgeTask(), _read_edges, [[context]]),
            Source(SaliencyTask(), read_binary, [["sal_distill/{}.png"]]),
            Source(NormalsTask(), read_vectors, [["normals_distill/{}.png"], [context]]),
        ]
        super().__init__(split, root, tasks, sources, image, "ImageSets/Context/{}.txt", labels, transform)
        if not isinstance(people, bool):
            raise ValueError(f"people must be true or false, got {people!r}")
        if people:
            self._keep_people()

    def _keep_people(self) -> None:
        if "parts" not in self.tasks:
            raise ValueError(f"people must be false where parts is no task, got tasks {', '.join(self.tasks)}")
        shown = parallel_map(_shows_a_person, list(zip(*self._files["parts"], strict=True)))
        self.keep([index for index, shows in enumerate(shown) if shows])
        if not self.names:
            raise ValueError("people must be false where no image of the split shows a part of a person")


def _read_parts(path: Path, image: Path) -> Tensor:
    """Reads the parts of people (H, W) as uint8; where masks overlap, the later one in the file counts."""
    with Image.open(image) as picture:
        parts = np.zeros((picture.height, picture.width), np.uint8)
    anno = load_mat(path, "anno")
    try:
        for thing in _each(anno["objects"]):
            for part in _each(thing["parts"]) if thing["class_ind"] == _PERSON else ():
                parts[part["mask"].astype(bool)] = _PARTS[part["part_name"]]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(
            f"parts {path} must hold anno.objects of PASCAL-Part, each with class_ind and parts, and a part_name and a "
            f"mask of the size of {image} in each part, got {error!r}"
        ) from error
    return torch.from_numpy(parts if parts.any() else np.full_like(parts, VOID))


def _each(structures: Any) -> Sequence[Any]:
    """Returns the structures of an array that SciPy gives as a list, or as a dict if there is one."""
    return [structures] if isinstance(structures, dict) else structures


def _shows_a_person(files: tuple[Path, Path]) -> bool:
    return bool((_read_parts(*files) != VOID).any())


def _read_classes(path: Path) -> np.ndarray:
    """Reads the class numbers (H, W) of PASCAL Context, 1 to 459, as int64."""
    classes = load_mat(path, "LabelMap")
    if not isinstance(classes, np.ndarray) or classes.ndim != 2 or classes.dtype.kind not in "iu":
        raise ValueError(f"LabelMap of {path} must be whole numbers (H, W), got {shown(classes)}")
    return classes.astype(np.int64)


def _read_edges(path: Path) -> Tensor:
    from scipy.ndimage import laplace  # no other target needs it

    return thin(torch.from_numpy(laplace(_read_classes(path)) != 0)).float()


def _read_normals(path: Path, context: Path, axes: Sequence[str]) -> Tensor:
    """Reads normals, void where the class in PASCAL Context has none."""
    normals = read_normals(path, axes)
    has_normals = torch.from_numpy(np.isin(_read_classes(context), np.array(_WITH_NORMALS.split(), int)))
    check_size_of(has_normals, f"LabelMap of {context}", normals, path)
    return normals.masked_fill(~has_normals, VOID)
