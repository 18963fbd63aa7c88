"""Data sets read what the files hold, and a bad file stops them at the start with its name."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import CLASSES, MAKERS, make_camvid, make_folder, semantic, write_pair
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from inverseform_fast.segmentation.datasets import DATASETS, CamVid, Folder, SegmentationDataset, build_dataset
from inverseform_fast.segmentation.datasets.camvid import split_frames
from inverseform_fast.segmentation.transforms import TrainTransform

FIRST = "val/valV0_00000"


@pytest.fixture(params=list(MAKERS))
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    return request.param, MAKERS[request.param](tmp_path)


# What is read


def test_samples_are_those_of_the_files(tree: tuple[str, Path]) -> None:
    name, root = tree
    dataset = build_dataset(name, "val", root)
    assert isinstance(dataset, SegmentationDataset)
    assert semantic(dataset).classes == CLASSES
    assert len(semantic(dataset).colors) == 3
    assert len(dataset) == len(dataset.names) == 3
    for i, stem in enumerate(dataset.names):
        stem = stem.split("/")[-1]
        sample = dataset[i]
        image = np.array(Image.open(root / "images" / "val" / f"{stem}.jpg"))
        label = np.array(Image.open(root / "labels" / "val" / f"{stem}.png"))
        assert isinstance(sample["image"], tv_tensors.Image)
        assert isinstance(sample["semantic"], tv_tensors.Mask)
        assert sample["image"].dtype == sample["semantic"].dtype == torch.uint8
        assert np.array_equal(sample["image"].numpy(), image.transpose(2, 0, 1))
        assert np.array_equal(sample["semantic"].numpy(), label)


def test_cached_samples_are_the_same_and_need_no_files(tree: tuple[str, Path]) -> None:
    name, root = tree
    plain = build_dataset(name, "val", root)
    samples = [plain[i] for i in range(len(plain))]
    cached = build_dataset(name, "val", root, cache=True)
    for path in [*root.rglob("*.jpg"), *root.rglob("*.png")]:
        path.unlink()
    for i, sample in enumerate(samples):
        assert torch.equal(cached[i]["image"], sample["image"])
        assert torch.equal(cached[i]["semantic"], sample["semantic"])


def test_batches_of_a_data_loader(tree: tuple[str, Path]) -> None:
    name, root = tree
    tasks = build_dataset(name, "val", root).tasks
    dataset = build_dataset(name, "val", root, transform=TrainTransform(tasks, (16, 24)))
    batch = next(iter(DataLoader(dataset, batch_size=3)))
    assert batch["image"].shape == (3, 3, 16, 24)
    assert batch["semantic"].shape == (3, 16, 24)


def test_camvid_classes_and_colors(tmp_path: Path) -> None:
    dataset = CamVid("test", make_camvid(tmp_path))
    assert semantic(dataset).colors == ((0, 0, 255), (1, 0, 254), (2, 0, 253))
    assert dataset.names == ["testV0_00000", "testV1_00000"]


def test_camvid_holdout_is_apart_from_fit(tmp_path: Path) -> None:
    root = make_camvid(tmp_path)
    train, fit, holdout = (CamVid(split, root) for split in ("train", "fit", "holdout"))
    assert set(fit.names) | set(holdout.names) < set(train.names)
    assert set(fit.names).isdisjoint(holdout.names)
    assert len(holdout) == 12  # 15 % of two videos of 40 frames
    assert len(fit) == 80 - 12 - 2 * 6
    assert CamVid("fit", root).names == fit.names


def test_the_parts_of_a_video_are_blocks_with_gaps() -> None:
    names = [f"{video}_{frame:05d}" for video, count in (("a", 204), ("b", 101), ("c", 62)) for frame in range(count)]
    fit, holdout = split_frames(list(reversed(names)))
    assert len(set(fit)) == len(fit) == 276  # what CamVid's three videos give
    assert len(set(holdout)) == len(holdout) == 55
    for held in holdout:
        video, frame = held.split("_")
        near = {f"{video}_{int(frame) + step:05d}" for step in range(-3, 4)}
        assert near.isdisjoint(fit)
    assert {name[0] for name in holdout} == {"a", "b", "c"}


def test_folder_takes_many_formats_and_sub_folders(tmp_path: Path) -> None:
    suffixes = [".png", ".jpg", ".JPEG", ".bmp", ".tif", ".webp"]
    for i, suffix in enumerate(suffixes):
        write_pair(tmp_path, f"train/town/{i}", suffix, seed=i)
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    dataset = Folder("train", tmp_path)
    assert dataset.names == [f"train/town/{i}" for i in range(6)]
    for i in range(6):
        label = np.array(Image.open(tmp_path / "labels" / f"train/town/{i}.png"))
        assert np.array_equal(dataset[i]["semantic"].numpy(), label)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_image_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    write_pair(tmp_path, "train/a", ".png")
    picture = Image.open(tmp_path / "images/train/a.png").convert(mode)
    picture.save(tmp_path / "images/train/a.png")
    image = Folder("train", tmp_path)[0]["image"]
    assert np.array_equal(image.numpy(), np.array(picture.convert("RGB")).transpose(2, 0, 1))


def test_palettised_labels_are_read_as_ids(tmp_path: Path) -> None:
    label = write_pair(tmp_path, "train/a")
    picture = Image.fromarray(label).convert("P")
    picture.putdata(label.flatten().tolist())
    picture.putpalette([255 - i // 3 for i in range(768)])
    picture.save(tmp_path / "labels/train/a.png")
    assert Image.open(tmp_path / "labels/train/a.png").mode == "P"
    assert np.array_equal(Folder("train", tmp_path)[0]["semantic"].numpy(), label)


def test_folder_counts_the_classes_of_all_splits(tmp_path: Path) -> None:
    write_pair(tmp_path, "train/a", label=np.array([[0, 1], [1, 255]], np.uint8).repeat(10, 0).repeat(15, 1))
    write_pair(tmp_path, "val/b", label=np.full((20, 30), 4, np.uint8))
    for split in ("train", "val"):
        task = semantic(Folder(split, tmp_path))
        assert len(task.classes) == len(task.colors) == len(set(task.colors)) == 5


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("classes.txt", "sky\n\nroad \ncar\n"),
        ("classes.json", json.dumps(CLASSES)),
        ("classes.json", json.dumps([{"name": name} for name in CLASSES])),
        ("classes.json", json.dumps({"classes": [{"id": i, "name": name} for i, name in enumerate(CLASSES)]})),
    ],
)
def test_folder_reads_class_names(tmp_path: Path, file: str, content: str) -> None:
    write_pair(tmp_path, "train/a")
    (tmp_path / file).write_text(content)
    dataset = Folder("train", tmp_path)
    assert semantic(dataset).classes == CLASSES
    assert len(set(semantic(dataset).colors)) == 3


def test_folder_without_splits_is_parted_by_name(tmp_path: Path) -> None:
    for i in range(30):
        write_pair(tmp_path, f"photo{i}", seed=i)
    parts = {split: Folder(split, tmp_path) for split in ("train", "val", "test")}
    assert {split: len(dataset) for split, dataset in parts.items()} == {"train": 24, "val": 3, "test": 3}
    assert sorted(name for dataset in parts.values() for name in dataset.names) == sorted(
        f"photo{i}" for i in range(30)
    )
    assert Folder("val", tmp_path).names == parts["val"].names
    assert parts["val"].names != sorted(f"photo{i}" for i in range(30))[:3]  # no stretch of neighbours


# Bad input: training does not start, and the message names the file


def test_a_missing_root_is_named(tree: tuple[str, Path]) -> None:
    name, root = tree
    with pytest.raises(FileNotFoundError, match=re.escape(str(root / "nowhere"))):
        build_dataset(name, "val", root / "nowhere")


def test_a_missing_label_is_named(tree: tuple[str, Path]) -> None:
    name, root = tree
    label = root / "labels" / f"{FIRST}.png"
    label.unlink()
    with pytest.raises(FileNotFoundError, match=f"must have a label.*{re.escape(str(label))}"):
        build_dataset(name, "val", root)


def test_a_missing_image_of_the_list_is_named(tmp_path: Path) -> None:
    image = make_camvid(tmp_path) / "images" / f"{FIRST}.jpg"
    image.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(image))):
        CamVid("val", tmp_path)


def test_a_missing_list_of_frames_is_named(tmp_path: Path) -> None:
    (make_camvid(tmp_path) / "val.txt").unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "val.txt"))):
        CamVid("val", tmp_path)


def test_a_missing_class_list_is_named(tmp_path: Path) -> None:
    (make_camvid(tmp_path) / "classes.json").unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "classes.json"))):
        CamVid("val", tmp_path)


def test_a_label_of_another_size_is_named(tree: tuple[str, Path]) -> None:
    name, root = tree
    label = root / "labels" / f"{FIRST}.png"
    Image.fromarray(np.zeros((20, 31), np.uint8)).save(label)
    with pytest.raises(ValueError, match=f"{re.escape(str(label))} must have the size.*30x20.*got 31x20"):
        build_dataset(name, "val", root)


@pytest.mark.parametrize("file", [f"images/{FIRST}.jpg", f"labels/{FIRST}.png"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_an_unreadable_file_is_named(tree: tuple[str, Path], file: str, damage: str) -> None:
    name, root = tree
    path = root / file
    content = path.read_bytes()
    damaged = {"truncated": content[: len(content) // 2], "empty": b"", "text": b"This is no image."}
    path.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} must be a readable image file"):
        build_dataset(name, "val", root)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp"])
def test_a_file_of_several_pictures_is_no_image(tmp_path: Path, suffix: str) -> None:
    image = make_folder(tmp_path) / f"images/{FIRST}{suffix}"
    pages = [Image.new("RGB", (30, 20), color) for color in ("red", "blue")]
    (tmp_path / f"images/{FIRST}.jpg").unlink()
    pages[0].save(image, save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=f"{re.escape(str(image))} must be a readable image file: it must hold one"):
        build_dataset("folder", "val", tmp_path)


def test_a_photo_with_a_preview_beside_it_is_an_image(tmp_path: Path) -> None:
    image = make_folder(tmp_path) / f"images/{FIRST}.jpg"
    photo, preview = Image.new("RGB", (30, 20), "red"), Image.new("RGB", (15, 10), "blue")
    photo.save(image, "MPO", save_all=True, append_images=[preview])
    sample = build_dataset("folder", "val", tmp_path)[0]
    assert sample["image"].float().mean((1, 2)).argmax() == 0


def test_a_label_with_an_unknown_id_is_named(tree: tuple[str, Path]) -> None:
    name, root = tree
    label = root / "labels" / f"{FIRST}.png"
    values = np.array(Image.open(label))
    values[3, 4], values[7, 8] = 3, 77
    Image.fromarray(values).save(label)
    with pytest.raises(ValueError, match=f"{re.escape(str(label))} must have class ids 0..2 or 255 .* also got 3, 77"):
        build_dataset(name, "val", root)


@pytest.mark.parametrize(
    ("mode", "way"), [("RGB", "getchannel"), ("RGBA", "getchannel"), ("LA", "getchannel"), ("1", "label_map=0:0,255:1")]
)
def test_a_label_of_several_channels_or_one_bit_is_named(tree: tuple[str, Path], mode: str, way: str) -> None:
    name, root = tree
    label = root / "labels" / f"{FIRST}.png"
    Image.open(label).convert(mode).save(label)
    with pytest.raises(
        ValueError, match=f"{re.escape(str(label))} must have one 8-bit channel.*got mode {mode}.*{way}"
    ):
        build_dataset(name, "val", root)


def test_16_bit_image_is_not_clipped(tmp_path: Path) -> None:
    write_pair(tmp_path, "train/a", ".png")
    image = tmp_path / "images/train/a.png"
    Image.fromarray(np.full((20, 30), 3000, np.uint16)).save(image)
    with pytest.raises(ValueError, match=f"{re.escape(str(image))} must have 8 bits per channel, got mode I;16"):
        Folder("train", tmp_path)


def test_a_folder_without_images_or_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*images"):
        Folder("train", tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"images must have images.* found none"):
        Folder("train", tmp_path)
    write_pair(tmp_path, "a")
    write_pair(tmp_path, "b")
    with pytest.raises(ValueError, match=r"at least 3 images to divide .* got 2"):
        Folder("train", tmp_path)
    write_pair(tmp_path, "train/c")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "images/a.jpg"))):
        Folder("train", tmp_path)


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "train/a", ".jpg")
    write_pair(tmp_path, "train/a", ".png")
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png"):
        Folder("train", tmp_path)


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    write_pair(tmp_path, "train/a")
    with pytest.raises(FileNotFoundError, match="split 'val' must have images"):
        Folder("val", tmp_path)


def test_masks_of_0_and_255_are_no_classes(tmp_path: Path) -> None:
    write_pair(tmp_path, "train/a", label=np.array([[0, 255]], np.uint8).repeat(20, 0).repeat(15, 1))
    with pytest.raises(ValueError, match="at least 2 class ids, got only id 0"):
        Folder("train", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be JSON"),
        ("3", "must list 2 to 255 classes, got int"),
        ('["sky"]', "must list 2 to 255 classes, got 1"),
        ('["sky", 3]', "class 1 of .* must have a name, got 3"),
        ('[{"name": "sky", "id": 1}, "road"]', "class sky of .* must have its position 0 as id, got 1"),
        ('[{"name": "sky", "color": [1, 2]}, "road"]', "color of class sky .* must be three integers"),
        ('{"ignore_index": 0, "classes": ["sky", "road"]}', "ignore_index of .* must be 255, got 0"),
    ],
)
def test_a_bad_class_list_is_named(tmp_path: Path, content: str, message: str) -> None:
    write_pair(tmp_path, "train/a")
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Folder("train", tmp_path)


# The registry


def test_an_unknown_data_set_gets_the_list_of_names() -> None:
    names = ["scenes", "camvid", "folder", "nyud_mt", "nyud_rgbd", "pascal_mt"]
    assert list(DATASETS) == names
    with pytest.raises(ValueError, match=f"data must be one of {', '.join(names)}, got 'cityscapes'"):
        build_dataset("cityscapes", "train")


def test_an_unknown_split_gets_the_list_of_splits(tree: tuple[str, Path]) -> None:
    name, root = tree
    splits = {"camvid": "train, val, test, fit, holdout", "folder": "train, val, test"}[name]
    with pytest.raises(ValueError, match=f"split must be one of {splits}, got 'dev'"):
        build_dataset(name, "dev", root)


def test_a_missing_or_superfluous_root_is_named() -> None:
    with pytest.raises(ValueError, match="root must be the folder that holds the data set 'camvid', got None"):
        build_dataset("camvid", "train")
    with pytest.raises(ValueError, match="root must be left out for the data set 'scenes', got 'somewhere'"):
        build_dataset("scenes", "train", "somewhere")


def test_scenes_need_no_root() -> None:
    dataset = build_dataset("scenes", "val", size=(24, 32), length=2)
    assert dataset[1]["image"].shape == (3, 24, 32)


@pytest.mark.skipif(
    "INVERSEFORM_FAST_CAMVID" not in os.environ, reason="INVERSEFORM_FAST_CAMVID names no CamVid folder"
)
def test_the_real_camvid_is_read() -> None:
    root = os.environ["INVERSEFORM_FAST_CAMVID"]
    sizes = {split: len(CamVid(split, root)) for split in CamVid.splits}
    assert sizes == {"train": 367, "val": 101, "test": 233, "fit": 276, "holdout": 55}
    dataset = CamVid("holdout", root)
    assert semantic(dataset).channels == 11
    assert dataset[0]["image"].shape == (3, 360, 480)
