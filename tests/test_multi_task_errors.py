"""The data sets of NYU-Depth-v2 and PASCAL name what is missing, and a file or an option that is bad."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from multi_task_files import (
    MAKERS,
    NYUD,
    SIZE,
    make_nyud,
    make_pascal,
    make_rgbd,
    mask,
    write,
    write_list,
    write_parts,
)
from scipy.io import loadmat, savemat
from training_runs import run, tiny_config

from inverseform_fast.segmentation.datasets import build_dataset

TARGETS = {  # a file that a task of the only image of "val" is read from
    "depth": ("nyud_mt", "depth", "depth/0007.npy"),
    "vectors": ("nyud_mt", "normals", "normals/0007.npy"),
    "map": ("nyud_mt", "edges", "edge/0007.npy"),
    "labels": ("pascal_mt", "semantic", "semseg/VOC12/2010_000004.png"),
    "normals": ("pascal_mt", "normals", "normals_distill/2010_000004.png"),
    "saliency": ("pascal_mt", "saliency", "sal_distill/2010_000004.png"),
    "context": ("pascal_mt", "edges", "pascal-context/trainval/2010_000004.mat"),
    "mask": ("pascal_mt", "normals", "pascal-context/trainval/2010_000004.mat"),
    "parts": ("pascal_mt", "parts", "human_parts/2010_000004.mat"),
}
LENGTH = "normals {file} must be vectors of length 1, or 0 where missing, got"
SIZES = "depth {file} must have the size of its image {image}, 32x24 (width x height), got"
NUMPY = "{file} must be a NumPy file of an array of numbers: "
METRES = "depth {file} must be in metres, from 0 (missing) to 100, got"


@pytest.mark.parametrize(
    ("target", "content", "message"),
    [
        ("depth", b"text", NUMPY),
        ("depth", b"\x93NUMPY\x01\x00\x16\x00{'descr': ('<f4', 'fo\n", NUMPY),
        ("depth", np.array([None]), NUMPY),
        ("depth", np.full(SIZE, 2500, np.uint16), f"{METRES} 2500 to 2500"),
        ("depth", np.full(SIZE, np.nan), f"{METRES} nan to nan"),
        ("depth", np.full(SIZE, -1.0), f"{METRES} -1 to -1"),
        ("depth", np.ones((*SIZE, 3)), "depth {file} must be numbers (H, W), got float64 (24, 32, 3)"),
        ("depth", np.array(["a"]), "depth {file} must be numbers (H, W), got <U1 (1,)"),
        ("depth", np.ones((8, 9)), f"{SIZES} 9x8"),
        ("vectors", np.full((*SIZE, 3), 255, np.uint8), f"{LENGTH} 441.673"),
        ("vectors", np.full((*SIZE, 3), np.nan), f"{LENGTH} nan"),
        ("vectors", np.full((*SIZE, 3), 1e300), f"{LENGTH} inf"),
        ("vectors", np.ones((3, *SIZE)), "normals {file} must be numbers (H, W, 3), got float64 (3, 24, 32)"),
        ("map", np.full(SIZE, 255.0), "map {file} must hold 0 and 1, got 255 to 255"),
        ("labels", np.full(SIZE, 21, np.uint8), "label {file} must have class ids 0..20 or 255 for void, also got 21"),
        ("normals", np.full((*SIZE, 3), 255, np.uint8), f"{LENGTH} 1.73"),
        ("normals", np.ones(SIZE, np.uint8), "normals {file} must be a picture of three 8-bit channels, got mode L"),
        ("saliency", np.ones((*SIZE, 3), np.uint8), "map {file} must be a picture of one 8-bit channel, got mode RGB"),
        ("context", b"text", "{file} must be a MATLAB file of a version before 7.3: "),
        ("context", {"labels": np.ones(SIZE)}, "{file} must hold the variable LabelMap, got labels"),
        ("context", {"LabelMap": np.ones(SIZE)}, "LabelMap of {file} must be whole numbers (H, W), got ndarray of "),
        ("mask", {"LabelMap": np.ones((8, 9), np.uint16)}, "LabelMap of {file} must have the size of its image "),
        ("parts", {"anno": np.ones(3)}, "parts {file} must hold anno.objects of PASCAL-Part, "),
    ],
)  # fmt: skip
def test_a_file_of_another_format_is_named(tmp_path: Path, target: str, content: Any, message: str) -> None:
    name, task, file = TARGETS[target]
    MAKERS[name][0](tmp_path)
    path = tmp_path / file
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        write(path, *content.values(), key=next(iter(content)))
    else:
        write(path, content)
    dataset = build_dataset(name, "val", tmp_path, tasks=[task])
    image = next(tmp_path.rglob(f"{path.stem}.jpg"))
    with pytest.raises(ValueError, match=re.escape(message.format(file=path, image=image))) as error:
        dataset[0]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "name", "area"),
    [
        (15, "tail", mask(slice(2), slice(2))),
        (15, "head", np.ones((3, 3))),
        (15, "head", np.array(["a"])),
        (np.array([15, 15]), "head", mask(slice(2), slice(2))),
    ],
)
def test_unknown_parts_and_bad_masks_are_named(tmp_path: Path, kind: Any, name: str, area: np.ndarray) -> None:
    make_pascal(tmp_path)
    path = tmp_path / "human_parts/2010_000004.mat"
    write_parts(path, [(kind, [(name, area)])])
    with pytest.raises(ValueError, match=rf"parts {path} must hold anno.objects of PASCAL-Part"):
        build_dataset("pascal_mt", "val", tmp_path, tasks=["parts"])[0]


def test_a_matlab_file_of_version_7_3_is_named(tmp_path: Path) -> None:
    make_nyud(tmp_path, older=True)
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "depth/0007.mat").write_bytes(header + bytes(400))
    with pytest.raises(ValueError, match=r"depth/0007\.mat must be a MATLAB file of a version before 7\.3"):
        build_dataset("nyud_mt", "val", tmp_path, tasks=["depth"])[0]


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_missing_is_named_at_the_start(tmp_path: Path, name: str) -> None:
    make, tasks = MAKERS[name]
    make(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"holds the data set: no folder {tmp_path}/nowhere$"):
        build_dataset(name, "val", tmp_path / "nowhere")
    dataset = build_dataset(name, "val", tmp_path, tasks=tasks)
    paths = [*dataset._images, *(path for files in dataset._files.values() for found in files for path in found)]  # type: ignore[attr-defined]
    assert len(set(paths)) >= 5
    for path in set(paths):
        content = path.read_bytes()
        path.unlink()
        other = list(tmp_path.glob(f"semseg/*/{path.name}"))  # where the first file is missing, another one will do
        if not other:
            with pytest.raises(
                FileNotFoundError, match=rf"\w+ of {path.stem} must exist: no file .*{re.escape(str(path))}"
            ):
                build_dataset(name, "val", tmp_path, tasks=tasks)
        path.write_bytes(content)
    lists = {"nyud_mt": "gt_sets", "pascal_mt": "ImageSets/Context"}[name]
    (tmp_path / lists / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"val\.txt must list the images of the split, one in a line, got none"):
        build_dataset(name, "val", tmp_path)
    (tmp_path / lists / "val.txt").unlink()
    with pytest.raises(FileNotFoundError, match=rf"a list of the split's images: no file {tmp_path}/{lists}/val.txt"):
        build_dataset(name, "val", tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nyud_mt", {"tasks": ["semantic", "parts"]}, "tasks must be a list of semantic, depth, normals, edges, got"),
        ("pascal_mt", {"tasks": "depth"}, "tasks must be a list of semantic, parts, edges, saliency, normals, got"),
        ("pascal_mt", {"tasks": []}, "tasks must be one or more of different names, got []"),
        ("pascal_mt", {"people": True}, "people must be false where parts is no task, got tasks semantic"),
        ("pascal_mt", {"people": 1}, "people must be true or false, got 1"),
        ("nyud_mt", {"normal_axes": ["x", "y"]}, 'normal_axes must be a list of x, y and z, such as ["x",'),
        ("nyud_mt", {"normal_axes": 7}, "normal_axes must be a list of x, y and z"),
        ("nyud_mt", {"cache": True}, "data_options must be arguments of the data set 'nyud_mt'"),
        ("nyud_rgbd", {"hha": 1}, "hha must be true or false, got 1"),
    ],
)  # fmt: skip
def test_a_bad_option_is_named(tmp_path: Path, name: str, options: dict[str, Any], message: str) -> None:
    for make in (make_nyud, make_pascal, make_rgbd):
        make(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)):
        build_dataset(name, "train", tmp_path, **options)


def test_rgbd_lists_and_files_are_checked(tmp_path: Path) -> None:
    make_rgbd(tmp_path)
    (tmp_path / "HHA/12.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=rf"hha of 12 must exist: no file {tmp_path}/HHA/12\.jpg"):
        build_dataset("nyud_rgbd", "train", tmp_path, hha=True)
    write(tmp_path / "HHA/12.jpg", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"hha .*12\.jpg must have the size of its image .*, got 8x8"):
        build_dataset("nyud_rgbd", "train", tmp_path, hha=True)[0]
    write_list(tmp_path / "train.txt", ["RGB/12.jpg Label/12.png"])
    with pytest.raises(
        ValueError, match=r"train\.txt must have an image and its label in a line, with a tab between, got"
    ):
        build_dataset("nyud_rgbd", "train", tmp_path)


def test_a_split_without_any_truth_is_refused(tmp_path: Path) -> None:
    make_nyud(tmp_path)
    for name in ("0001", "0002"):
        write(tmp_path / "depth" / f"{name}.npy", np.zeros(SIZE))
    dataset = build_dataset("nyud_mt", "train", tmp_path, tasks=NYUD)
    with pytest.raises(ValueError, match="depth must have a pixel with a truth, but none of the 2 images has one"):
        dataset.check_for_training()
    build_dataset("nyud_mt", "train", tmp_path, tasks=["semantic", "normals"]).check_for_training()
    make_pascal(tmp_path)
    build_dataset("pascal_mt", "train", tmp_path, tasks=["parts"]).check_for_training()
    write_list(tmp_path / "ImageSets/Context/train.txt", ["2008_000002"])
    with pytest.raises(ValueError, match="people must be false where no image of the split shows a part of a person"):
        build_dataset("pascal_mt", "train", tmp_path, tasks=["parts"], people=True)


def cut(path: Path) -> None:
    """Takes the second half of a file away; the header stays."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", MAKERS)
def test_a_bad_file_stops_a_training_before_it_begins(tmp_path: Path, name: str, split: str) -> None:
    make, tasks = MAKERS[name]
    make(tmp_path / "data")
    last = build_dataset(name, split, tmp_path / "data", tasks=tasks).names[-1]
    image = next((tmp_path / "data").rglob(f"{last}.jpg"))
    cut(image)
    options: Any = {"data": name, "root": str(tmp_path / "data"), "data_options": {"tasks": tasks}}
    with pytest.raises(ValueError, match=rf"image {image} must be a readable image file: "):
        run(tiny_config(tmp_path, "compact", loss="ce", boundary_head=False, **options))
    assert not (tmp_path / "run").exists()


def test_pictures_of_depth_are_read_before_a_training(tmp_path: Path) -> None:
    make_rgbd(tmp_path)
    cut(tmp_path / "HHA/12.jpg")
    build_dataset("nyud_rgbd", "train", tmp_path).check_files([0])
    dataset = build_dataset("nyud_rgbd", "train", tmp_path, hha=True)
    with pytest.raises(ValueError, match=rf"image {tmp_path}/HHA/12\.jpg must be a readable image file"):
        dataset.check_files([0])


def test_edges_whose_values_are_misread_are_refused(tmp_path: Path) -> None:
    make_nyud(tmp_path, older=True)
    for path in tmp_path.glob("edge/*.png"):
        write(path, np.ones(SIZE, np.uint8))  # an edge is 255, not 1
    dataset = build_dataset("nyud_mt", "train", tmp_path, tasks=["edges"])
    with pytest.raises(ValueError, match="edges must have a pixel with the value 1, but none of the 2 images has one"):
        dataset.check_for_training()


@pytest.mark.parametrize("target", ["depth", "context"])
def test_a_file_that_does_not_fit_into_memory_is_named(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, task, file = TARGETS[target]
    MAKERS[name][0](tmp_path)
    dataset = build_dataset(name, "val", tmp_path, tasks=[task])

    def load(*args: Any, **options: Any) -> None:
        raise MemoryError("9 GiB")

    monkeypatch.setattr("numpy.load", load)
    monkeypatch.setattr("scipy.io.loadmat", load)
    with pytest.raises(MemoryError, match=rf"{tmp_path / file} must fit into memory: 9 GiB"):
        dataset[0]


def test_only_the_variable_that_is_asked_for_is_read(tmp_path: Path) -> None:
    make_pascal(tmp_path)
    path = tmp_path / "pascal-context/trainval/2010_000004.mat"
    good = loadmat(path)["LabelMap"]
    savemat(path, {"LabelMap": good, "other": np.arange(1000)})
    cut(path)  # within the other one
    assert build_dataset("pascal_mt", "val", tmp_path, tasks=["edges"])[0]["edges"].any()
