"""The data sets of NYU-Depth-v2 and PASCAL read what the files hold, when it is needed, and name a file that is bad."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from multi_task_files import (
    SIZE,
    coded,
    make_nyud,
    make_pascal,
    make_rgbd,
    mask,
    unit_vectors,
    write,
    write_list,
    write_parts,
)
from PIL import Image
from rich.console import Console
from torch import Tensor
from training_runs import run

from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import SegmentationDataset, build_dataset
from inverseform_fast.segmentation.datasets import pascal as pascal_module
from inverseform_fast.segmentation.label_files import align_label_files
from inverseform_fast.segmentation.tasks import SemanticTask

NYUD = ["semantic", "depth", "normals", "edges"]
PASCAL = ["semantic", "parts", "edges", "saliency", "normals"]
MAKERS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "nyud_mt": (make_nyud, NYUD),
    "pascal_mt": (make_pascal, PASCAL),
}


def samples_of(dataset: SegmentationDataset) -> dict[str, dict[str, Tensor]]:
    return {
        name: {key: value.as_subclass(Tensor) for key, value in dataset[index].items()}
        for index, name in enumerate(dataset.names)
    }


def with_void(vectors: np.ndarray) -> Tensor:
    """The target that vectors (H, W, 3) are."""
    return torch.from_numpy(np.where(vectors.any(2, keepdims=True), vectors, 255)).permute(2, 0, 1)


# What is read


@pytest.mark.parametrize("older", [False, True])
def test_nyud_is_read_as_it_is_on_disk(tmp_path: Path, older: bool) -> None:
    truth = make_nyud(tmp_path, older)
    train, val = (build_dataset("nyud_mt", split, tmp_path, tasks=NYUD) for split in ("train", "val"))
    assert (train.names, val.names) == (["0002", "0001"], ["0007"])
    for name, sample in (samples_of(train) | samples_of(val)).items():
        assert list(sample) == ["image", *NYUD]
        picture = np.array(Image.open(tmp_path / "images" / f"{name}.jpg"))
        assert np.array_equal(sample["image"].numpy(), picture.transpose(2, 0, 1))
        labels = truth[name]["semantic"].astype(int)
        assert np.array_equal(sample["semantic"].numpy(), np.where(labels == 0, 255, labels - 1))
        assert np.array_equal(sample["depth"].numpy(), truth[name]["depth"])
        assert np.array_equal(sample["edges"].numpy(), truth[name]["edges"])
        expected = with_void(truth[name]["normals"])
        assert torch.equal(sample["normals"] == 255, expected == 255)
        torch.testing.assert_close(sample["normals"], expected, rtol=0, atol=0.009 if older else 1e-6)
        valid = sample["normals"][:, (expected != 255).all(0)]
        torch.testing.assert_close(valid.norm(dim=0), torch.ones(valid.shape[1]))


def test_nyud_has_the_forty_classes_and_two_splits(tmp_path: Path) -> None:
    make_nyud(tmp_path)
    task = build_dataset("nyud_mt", "val", tmp_path).tasks["semantic"]
    assert isinstance(task, SemanticTask)
    assert len(task.classes) == 40
    assert (task.classes[0], task.classes[19], task.classes[39]) == ("wall", "floor mat", "other prop")
    with pytest.raises(ValueError, match="split must be one of train, val, got 'test'"):
        build_dataset("nyud_mt", "test", tmp_path)


def test_only_the_folders_of_the_chosen_tasks_are_needed(tmp_path: Path) -> None:
    make_nyud(tmp_path)
    for folder in ("depth", "edge"):
        shutil.rmtree(tmp_path / folder)
    dataset = build_dataset("nyud_mt", "train", tmp_path, tasks=["normals", "semantic"])
    assert list(dataset[0]) == ["image", "normals", "semantic"]
    assert list(build_dataset("nyud_mt", "train", tmp_path)[0]) == ["image", "semantic"]
    with pytest.raises(FileNotFoundError, match=rf"hold the folder of depth: no folder {tmp_path}/depth$"):
        build_dataset("nyud_mt", "train", tmp_path, tasks=NYUD)


def test_rgbd_code_lists_pairs_of_files(tmp_path: Path) -> None:
    truth = make_rgbd(tmp_path)
    for split, name in {"train": "12", "test": "3"}.items():
        dataset = build_dataset("nyud_rgbd", split, tmp_path, hha=True)
        assert dataset.names == [name]
        sample = samples_of(dataset)[name]
        labels = truth[name]["semantic"].astype(int)
        assert np.array_equal(sample["semantic"].numpy(), np.where(labels == 0, 255, labels - 1))
        picture = np.array(Image.open(tmp_path / "HHA" / f"{name}.jpg"))
        assert np.array_equal(sample["hha"].numpy(), picture.transpose(2, 0, 1))
        assert list(build_dataset("nyud_rgbd", split, tmp_path, cache=True)[0]) == ["image", "semantic"]


def test_pascal_is_read_as_it_is_on_disk(tmp_path: Path) -> None:
    truth = make_pascal(tmp_path)
    train, val = (build_dataset("pascal_mt", split, tmp_path, tasks=PASCAL) for split in ("train", "val"))
    assert train.names + val.names == list(truth)
    listed = set(map(int, pascal_module._WITH_NORMALS.split()))
    for name, sample in (samples_of(train) | samples_of(val)).items():
        assert np.array_equal(sample["semantic"].numpy(), truth[name]["semantic"])
        assert np.array_equal(sample["saliency"].numpy(), truth[name]["saliency"] / 255 > 0.5)
        used = np.vectorize(listed.__contains__)(truth[name]["classes"])
        expected = with_void(truth[name]["normals"] * used[..., None] * (1, -1, 1))  # y of the files points down
        assert 0 < used.sum() < used.size
        torch.testing.assert_close(sample["normals"].double(), expected, rtol=0, atol=0.009)


def test_pascals_lists_are_whole(tmp_path: Path) -> None:
    make_pascal(tmp_path)
    task = build_dataset("pascal_mt", "val", tmp_path).tasks["semantic"]
    assert isinstance(task, SemanticTask)
    assert len(task.classes) == 21
    assert (task.classes[0], task.classes[15], task.classes[20]) == ("background", "person", "tvmonitor")
    numbers = [*map(int, pascal_module._WITH_NORMALS.split())]
    assert len(numbers) == 170
    assert numbers == sorted(set(numbers))
    assert (min(numbers), max(numbers)) == (3, 457)
    assert len(pascal_module._PARTS) == 24  # that PASCAL-Part has for people
    assert set(pascal_module._PARTS.values()) == set(range(1, 7))


def test_parts_of_people_are_painted_in_the_order_of_the_file(tmp_path: Path) -> None:
    make_pascal(tmp_path)
    train = samples_of(build_dataset("pascal_mt", "train", tmp_path, tasks=["parts"]))
    first = np.zeros(SIZE, np.uint8)
    first[5:15, 4:12] = 2
    first[8:12, 10:20] = 3  # over the torso; the head of a thing of another class is none
    assert np.array_equal(train["2008_000001"]["parts"].numpy(), first)
    assert (train["2008_000002"]["parts"] == 255).all()
    assert train["2008_000003"]["parts"].sum() == 16
    assert samples_of(build_dataset("pascal_mt", "val", tmp_path, tasks=["parts"]))["2010_000004"]["parts"].max() == 6


def test_images_without_people_can_be_left_out(tmp_path: Path) -> None:
    make_pascal(tmp_path)
    dataset = build_dataset("pascal_mt", "train", tmp_path, tasks=["parts", "normals"], people=True)
    assert dataset.names == ["2008_000001", "2008_000003"]
    everything = samples_of(build_dataset("pascal_mt", "train", tmp_path, tasks=["parts", "normals"]))
    for name, sample in samples_of(dataset).items():
        assert all(torch.equal(value, everything[name][key]) for key, value in sample.items())


def test_pascals_edges_are_the_thinned_borders_of_the_459_classes(tmp_path: Path) -> None:
    make_pascal(tmp_path)
    for name in ("2008_000001", "2008_000002", "2008_000003"):
        classes = np.full(SIZE, 300, np.uint16)
        classes[:, 20:] = 301
        write(tmp_path / "pascal-context/trainval" / f"{name}.mat", classes, key="LabelMap")
    dataset = build_dataset("pascal_mt", "train", tmp_path, tasks=["edges"])
    edges = dataset[0]["edges"]
    assert edges.sum() in (SIZE[0], SIZE[0] - 1, SIZE[0] - 2)  # a line one pixel wide, which thinning may shorten
    assert set(edges.nonzero()[:, 1].tolist()) <= {19, 20}


def test_normals_are_turned_into_the_axes_of_the_package(tmp_path: Path) -> None:
    truth = make_nyud(tmp_path)
    dataset = build_dataset("nyud_mt", "val", tmp_path, tasks=["normals"], normal_axes=["x", "-z", "y"])
    first, second, third = with_void(truth["0007"]["normals"])
    void = first == 255
    expected = torch.stack((first, third, torch.where(void, 255, -second)))
    torch.testing.assert_close(dataset[0]["normals"].as_subclass(Tensor), expected)


def test_a_black_pixel_of_a_picture_is_no_normal(tmp_path: Path) -> None:
    make_nyud(tmp_path, older=True)
    picture = coded(unit_vectors(np.random.default_rng(0)))
    picture[10:12] = 0
    write(tmp_path / "normals/0007.png", picture)
    normals = build_dataset("nyud_mt", "val", tmp_path, tasks=["normals"])[0]["normals"]
    assert (normals[:, [3, 10, 11]] == 255).all()
    assert (normals != 255).sum() == 3 * (SIZE[0] - 3) * SIZE[1]


def test_labels_of_other_values_are_mapped(tmp_path: Path) -> None:
    make_nyud(tmp_path)
    labels = np.full(SIZE, 255, np.uint8)
    labels[:4] = 39
    write(tmp_path / "segmentation/0007.png", labels)
    with pytest.raises(
        ValueError, match=r"0007\.png must have 0 for void or the number 1\.\.40 of a class, also got 255"
    ):
        build_dataset("nyud_mt", "val", tmp_path)[0]
    dataset = build_dataset("nyud_mt", "val", tmp_path, label_map="0-39:0-39")
    assert np.array_equal(dataset[0]["semantic"].numpy(), labels)
    with pytest.raises(ValueError, match=r"label_map must give class ids 0\.\.39 or void, got 40"):
        build_dataset("nyud_mt", "val", tmp_path, label_map="0-40:0-40")


@pytest.mark.parametrize("name", MAKERS)
def test_a_data_set_can_be_sent_to_the_processes_of_a_loader(tmp_path: Path, name: str) -> None:
    make, tasks = MAKERS[name]
    make(tmp_path)
    dataset = build_dataset(name, "train", tmp_path, tasks=tasks)
    copy = pickle.loads(pickle.dumps(dataset))
    assert all(torch.equal(value, copy[1][key]) for key, value in dataset[1].items())


@pytest.mark.parametrize("name", MAKERS)
def test_files_are_read_when_they_are_needed(tmp_path: Path, name: str) -> None:
    make, tasks = MAKERS[name]
    make(tmp_path)
    dataset = build_dataset(name, "train", tmp_path, tasks=tasks)
    before = samples_of(dataset)[dataset.names[0]]
    for path in tmp_path.rglob("*"):
        if path.stem == dataset.names[1]:
            path.write_bytes(b"damaged")
    dataset = build_dataset(name, "train", tmp_path, tasks=tasks)
    assert all(torch.equal(value, before[key]) for key, value in dataset[0].items())
    with pytest.raises(
        ValueError, match=rf"image {tmp_path}/\w+/{dataset.names[1]}\.jpg must be a readable image file"
    ):
        dataset[1]


# What is wrong


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
METRES = "depth {file} must be in metres, from 0 (missing) to 100, got"


@pytest.mark.parametrize(
    ("target", "content", "message"),
    [
        ("depth", b"text", "{file} must be a NumPy file of an array of numbers: "),
        ("depth", np.array([None]), "{file} must be a NumPy file of an array of numbers: "),
        ("depth", np.full(SIZE, 2500, np.uint16), f"{METRES} 2500 to 2500"),
        ("depth", np.full(SIZE, np.nan), f"{METRES} nan to nan"),
        ("depth", np.full(SIZE, -1.0), f"{METRES} -1 to -1"),
        ("depth", np.ones((*SIZE, 3)), "depth {file} must be numbers (H, W), got float64 (24, 32, 3)"),
        ("depth", np.array(["a"]), "depth {file} must be numbers (H, W), got <U1 (1,)"),
        ("depth", np.ones((8, 9)), f"{SIZES} 9x8"),
        ("vectors", np.full((*SIZE, 3), 255, np.uint8), f"{LENGTH} 441.673"),
        ("vectors", np.full((*SIZE, 3), np.nan), f"{LENGTH} nan"),
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


@pytest.mark.parametrize("parts", [[("tail", mask(slice(2), slice(2)))], [("head", np.ones((3, 3)))]])
def test_unknown_parts_and_masks_of_another_size_are_named(tmp_path: Path, parts: Any) -> None:
    make_pascal(tmp_path)
    path = tmp_path / "human_parts/2010_000004.mat"
    write_parts(path, [(15, parts)])
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
    with pytest.raises(ValueError, match="depth must have a pixel with a truth, but all 2 images are void"):
        dataset.check_for_training()
    build_dataset("nyud_mt", "train", tmp_path, tasks=["semantic", "normals"]).check_for_training()
    make_pascal(tmp_path)
    build_dataset("pascal_mt", "train", tmp_path, tasks=["parts"]).check_for_training()
    write_list(tmp_path / "ImageSets/Context/train.txt", ["2008_000002"])
    with pytest.raises(ValueError, match="people must be false where no image of the split shows a part of a person"):
        build_dataset("pascal_mt", "train", tmp_path, tasks=["parts"], people=True)


# The training


@pytest.mark.parametrize(
    ("name", "augmentation"),
    [
        ("nyud_mt", {}),
        ("pascal_mt", {"augmentation": "warp", "augmentation_options": {"rotation": 20, "fill": "zero"}}),
    ],
)
def test_all_tasks_are_trained_and_scored_and_labels_aligned(
    tmp_path: Path, name: str, augmentation: dict[str, Any]
) -> None:
    make, tasks = MAKERS[name]
    make(tmp_path / "data")
    config = TrainConfig(
        data=name,
        root=str(tmp_path / "data"),
        data_options={"tasks": tasks},
        loss="ce",
        crop=(32, 32),
        steps=2,
        batch_size=2,
        warmup=1,
        threads=1,
        device="cpu",
        out=str(tmp_path / "run"),
        **augmentation,
    )
    metrics = run(config)
    assert {key.split("/")[0] for key in metrics if "/" in key} >= set(tasks[1:])
    align_label_files(tmp_path / "run", tmp_path / "moved", console=Console(file=io.StringIO()))
    moved = sorted(path.relative_to(tmp_path / "moved").as_posix() for path in (tmp_path / "moved").rglob("*.png"))
    originals = [path for path in moved if path != "worst.png"]
    assert originals
    for path in originals:
        before, after = (np.array(Image.open(tmp_path / folder / path)) for folder in ("data", "moved"))
        assert set(np.unique(after)) <= set(np.unique(before))


# Real files


@pytest.mark.skipif(
    "INVERSEFORM_FAST_MTL_SAMPLES" not in os.environ,
    reason="INVERSEFORM_FAST_MTL_SAMPLES names no folder of multi-task examples",
)
def test_real_examples_are_read(tmp_path: Path) -> None:
    samples = Path(os.environ["INVERSEFORM_FAST_MTL_SAMPLES"])
    nyud, pascal = samples / "nyud", samples / "pascal_voc"
    (tmp_path / "images").mkdir()
    names = sorted(path.stem for path in (nyud / "seg40").glob("*.png"))
    write_list(tmp_path / "gt_sets/val.txt", names)
    for name in names:
        Image.open(nyud / "rgb" / f"{name}.png").save(tmp_path / "images" / f"{name}.jpg")
    shutil.copytree(nyud / "seg40", tmp_path / "segmentation")
    labels = build_dataset("nyud_mt", "val", tmp_path, label_map="0-39:0-39")
    for name, sample in samples_of(labels).items():
        assert np.array_equal(sample["semantic"].numpy(), np.array(Image.open(nyud / "seg40" / f"{name}.png")))

    shutil.copytree(nyud / "normal", tmp_path / "normals")
    write_list(tmp_path / "gt_sets/val.txt", ["000433"])
    millimetres = np.array(Image.open(nyud / "depth/000433.png")) / np.float32(5)
    write(tmp_path / "depth/000433.npy", millimetres)
    options = {"tasks": ["depth", "normals"], "normal_axes": ["x", "-z", "y"]}
    with pytest.raises(ValueError, match=r"must be in metres, from 0 \(missing\) to 100, got 0 to 5929\.8"):
        build_dataset("nyud_mt", "val", tmp_path, **options)[0]
    write(tmp_path / "depth/000433.npy", millimetres / 1000)
    sample = samples_of(build_dataset("nyud_mt", "val", tmp_path, **options))["000433"]
    assert _median_angle(sample["normals"].double(), _normals_of(sample["depth"].double())) < 15

    write_list(tmp_path / "ImageSets/Context/val.txt", sorted(path.stem for path in (pascal / "labels").glob("*.png")))
    shutil.copytree(pascal / "images", tmp_path / "JPEGImages")
    shutil.copytree(pascal / "labels", tmp_path / "semseg/VOC12")
    for name, sample in samples_of(build_dataset("pascal_mt", "val", tmp_path)).items():
        assert np.array_equal(sample["semantic"].numpy(), np.array(Image.open(pascal / "labels" / f"{name}.png")))


def _normals_of(depth: Tensor) -> Tensor:
    """Normals (3, H, W) of what a Kinect at 640 x 480 sees, over 13 pixels; 0 where there is no depth."""
    y, x = torch.meshgrid(torch.arange(480.0), torch.arange(640.0), indexing="ij")
    points = torch.stack(((x - 325.6) / 519 * depth, (253.7 - y) / 519 * depth, -depth))
    right, up = torch.zeros_like(points), torch.zeros_like(points)
    right[..., 6:-6] = points[..., 12:] - points[..., :-12]
    up[:, 6:-6] = points[:, :-12] - points[:, 12:]
    normals = torch.linalg.cross(right, up, dim=0) * (depth > 0)
    return normals / normals.norm(dim=0).clamp(min=1e-12)


def _median_angle(first: Tensor, second: Tensor) -> float:
    """The median angle in degrees where both have a vector."""
    valid = (first != 255).all(0) & (second.norm(dim=0) > 0.5)
    return float((first * second).sum(0)[valid].clamp(-1, 1).acos().rad2deg().median())
