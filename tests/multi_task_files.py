"""Tests of multi-task data sets share small folders in the layouts of NYUD_MT and PASCAL_MT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

SIZE = (24, 32)
Truth = dict[str, np.ndarray]
Things = list[tuple[int, list[tuple[str, np.ndarray]]]]  # the class of each thing, name and mask of each of its parts


def write(path: Path, array: np.ndarray, **options: Any) -> None:
    """Writes an array in the format that the suffix names; ``key`` is the variable of a MATLAB file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".mat":
        savemat(path, {options["key"]: array}, do_compression=True)
    else:
        Image.fromarray(array).save(path, **options)


def write_list(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")


def unit_vectors(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Makes vectors (H, W, 3) of length 1, and a row of zeros."""
    vectors = rng.normal(size=(*size, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    vectors[3] = 0
    return vectors


def coded(vectors: np.ndarray) -> np.ndarray:
    """Codes vectors as a picture."""
    return np.round(255 * (vectors + 1) / 2).astype(np.uint8)


def make_nyud(root: Path, older: bool = False) -> dict[str, Truth]:
    """Writes two images to train on and one to test on; returns what the files hold, by name."""
    truth: dict[str, Truth] = {}
    for split, names in {"train": ["0002", "0001"], "val": ["0007"]}.items():
        write_list(root / "gt_sets" / f"{split}.txt", names)
        for name in names:
            rng = np.random.default_rng(int(name))
            depth = rng.uniform(0.5, 9.5, SIZE).astype(np.float32)
            depth[:2] = 0
            truth[name] = {
                "semantic": rng.integers(0, 41, SIZE, np.uint8),
                "depth": depth,
                "normals": unit_vectors(rng),
                "edges": (rng.random(SIZE) < 0.1).astype(np.float32),
            }
            write(root / "images" / f"{name}.jpg", rng.integers(0, 256, (*SIZE, 3), np.uint8))
            write(root / "segmentation" / f"{name}.png", truth[name]["semantic"])
            if older:
                write(root / "depth" / f"{name}.mat", depth.astype(np.float64), key="depth")
                write(root / "normals" / f"{name}.png", coded(truth[name]["normals"]))
                write(root / "edge" / f"{name}.png", (255 * truth[name]["edges"]).astype(np.uint8))
            else:
                write(root / "depth" / f"{name}.npy", depth)
                write(root / "normals" / f"{name}.npy", truth[name]["normals"])
                write(root / "edge" / f"{name}.npy", truth[name]["edges"])
    return truth


def mask(rows: slice, columns: slice, size: tuple[int, int] = SIZE) -> np.ndarray:
    result = np.zeros(size, np.uint8)
    result[rows, columns] = 1
    return result


def structures(entries: list[dict[str, Any]]) -> np.ndarray:
    """Makes a MATLAB array (1, N) of structures; one without any is (0, 0), as MATLAB writes it."""
    if not entries:
        return np.zeros((0, 0))
    array = np.zeros((1, len(entries)), [(key, object) for key in entries[0]])
    for place, entry in enumerate(entries):
        for key, value in entry.items():
            array[0, place][key] = value
    return array


def write_parts(path: Path, things: Things) -> None:
    """Writes a file of PASCAL-Part."""
    objects = structures(
        [
            {
                "class": f"class {number}",
                "class_ind": number,
                "mask": np.ones(SIZE, np.uint8),
                "parts": structures([{"part_name": name, "mask": area} for name, area in parts]),
            }
            for number, parts in things
        ]
    )
    write(path, structures([{"imname": path.stem, "objects": objects}]), key="anno")


def make_pascal(root: Path) -> dict[str, Truth]:
    """Writes three images to train on, of which the second shows no person, and one to test on."""
    truth: dict[str, Truth] = {}
    people: dict[str, Things] = {
        "2008_000001": [
            (7, [("head", mask(slice(0, 9), slice(0, 9)))]),
            (15, [("torso", mask(slice(5, 15), slice(4, 12))), ("ruarm", mask(slice(8, 12), slice(10, 20)))]),
            (15, []),
        ],
        "2008_000002": [(7, []), (15, [])],
        "2008_000003": [(15, [("hair", mask(slice(0, 4), slice(0, 4)))])],
        "2010_000004": [(15, [("lfoot", mask(slice(20, 24), slice(0, 32)))])],
    }
    for split, names in {"train": list(people)[:3], "val": list(people)[3:]}.items():
        write_list(root / "ImageSets/Context" / f"{split}.txt", names)
        for name in names:
            rng = np.random.default_rng(int(name[-1]))
            classes = rng.integers(1, 460, (4, 4)).astype(np.uint16).repeat(SIZE[0] // 4, 0).repeat(SIZE[1] // 4, 1)
            truth[name] = {
                "semantic": rng.choice(np.array([*range(21), 255], np.uint8), SIZE),
                "classes": classes,
                "normals": unit_vectors(rng),
                "saliency": rng.integers(0, 256, SIZE, np.uint8),
            }
            voc = rng.choice(np.array([*range(21), 255], np.uint8), SIZE)
            write(root / "JPEGImages" / f"{name}.jpg", rng.integers(0, 256, (*SIZE, 3), np.uint8))
            if name != "2008_000002":
                write(root / "semseg/VOC12" / f"{name}.png", truth[name]["semantic"])
                write(root / "semseg/pascal-context" / f"{name}.png", voc)
            else:
                write(root / "semseg/pascal-context" / f"{name}.png", truth[name]["semantic"])
            write_parts(root / "human_parts" / f"{name}.mat", people[name])
            write(root / "pascal-context/trainval" / f"{name}.mat", classes, key="LabelMap")
            write(root / "normals_distill" / f"{name}.png", coded(truth[name]["normals"]))
            write(root / "sal_distill" / f"{name}.png", truth[name]["saliency"])
    return truth


def make_rgbd(root: Path) -> dict[str, Truth]:
    """Writes one image to train on and one to test on, as RGB-D code has them."""
    truth: dict[str, Truth] = {}
    for split, name in {"train": "12", "test": "3"}.items():
        rng = np.random.default_rng(int(name))
        truth[name] = {"semantic": rng.integers(0, 41, SIZE, np.uint8)}
        for folder in ("RGB", "HHA"):
            write(root / folder / f"{name}.jpg", rng.integers(0, 256, (*SIZE, 3), np.uint8))
        write(root / "Label" / f"{name}.png", truth[name]["semantic"])
        write_list(root / f"{split}.txt", [f"RGB/{name}.jpg\tLabel/{name}.png"])
    return truth


NYUD = ["semantic", "depth", "normals", "edges"]
PASCAL = ["semantic", "parts", "edges", "saliency", "normals"]
MAKERS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "nyud_mt": (make_nyud, NYUD),
    "pascal_mt": (make_pascal, PASCAL),
}
