"""The data sets of NYU-Depth-v2 and PASCAL read what the files hold, when it is needed, and name a file that is bad."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from multi_task_files import (
    MAKERS,
    NYUD,
    PASCAL,
    SIZE,
    coded,
    make_nyud,
    make_pascal,
    make_rgbd,
    unit_vectors,
    write,
    write_list,
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
