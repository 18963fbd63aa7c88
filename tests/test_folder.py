"""The data set folder finds all images and their splits, or says what it does not understand."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path

import pytest
from data_files import CLASSES, make_camvid, make_folder, write_pair

from inverseform_fast.inverse_net.label_maps import read_label_maps
from inverseform_fast.segmentation.datasets import CamVid, Folder, Scenes

SPLITS = ("train", "val", "test")


def files(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        write_pair(root, name, ".png", seed=seed)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


# Splits


@pytest.mark.parametrize(
    "folders", [("training", "validation", "testing"), ("Train", "Val", "Test"), ("TRAINING", "valid", "test")]
)
def test_the_usual_names_of_splits_are_understood(tmp_path: Path, folders: tuple[str, ...]) -> None:
    names = [f"{folder}/{'town/' * (i % 2)}{i}" for folder in folders for i in range(3)]
    files(tmp_path, *names)
    for split, folder in zip(SPLITS, folders, strict=True):
        assert Folder(split, tmp_path).names == [name for name in sorted(names) if name.startswith(f"{folder}/")]


def test_a_split_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    files(tmp_path, *(f"training/{i}" for i in range(20)), "Validation/a")
    with pytest.raises(FileNotFoundError, match="split 'test' must have images"):
        Folder("test", tmp_path)


@pytest.mark.parametrize(
    "folder",
    [
        "train2017",
        "val_set",
        "TestImages",
        "leftImg8bit_train",
        "dev",
        "trainval",
        "holdout",
        "town/train",
        "my test",
        "town/development",
    ],
)
def test_a_folder_that_looks_like_a_split_is_not_divided_by_chance(tmp_path: Path, folder: str) -> None:
    files(tmp_path, *(f"{folder}/{i}" for i in range(3)), *(f"other/{i}" for i in range(3)))
    with pytest.raises(ValueError, match=f"the folder {re.escape(folder.split('/')[-1])} of .* looks like one"):
        Folder("train", tmp_path)


@pytest.mark.parametrize(
    "folder",
    ["valley", "contest", "latest", "trains", "developers", "devon", "train_station", "test-tube", "Test Site A"],
)
def test_a_folder_whose_name_only_holds_such_letters_is_no_split(tmp_path: Path, folder: str) -> None:
    files(tmp_path, "test", "train", *(f"{folder}/{i}" for i in range(3)))
    assert sorted(name for split in SPLITS for name in Folder(split, tmp_path).names) == sorted(
        ["test", "train", *(f"{folder}/{i}" for i in range(3))]
    )


@pytest.mark.parametrize(
    "names",
    [
        ("train_v2/a", "train_v2/b", "val_v2/a", "more/a"),
        ("trainA/a", "trainB/a", "testA/a"),
        ("b", "town/train_frames/a", "town/validation_frames/a"),
        ("ADE_train_1", "ADE_train_2", "ADE_val_1"),
        ("x/TrainImg7", "x/TrainImg8", "x/TestImg9"),
    ],
)
def test_names_of_several_splits_are_not_divided_by_chance(tmp_path: Path, names: tuple[str, ...]) -> None:
    files(tmp_path, *names)
    first, second = sorted(names[1:3])
    with pytest.raises(ValueError, match=f"images/{first} and images/{second} seem to be of different ones"):
        Folder("train", tmp_path)


def test_words_of_one_split_or_in_some_files_alone_are_names(tmp_path: Path) -> None:
    names = ["train 1", "train 2", "val d'isere", "street"]
    assert len(Folder("train", files(tmp_path, *names)).names) == 2


def test_names_that_are_no_utf8_are_names(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    files(tmp_path, name, "a", "b")
    assert sorted(each for split in SPLITS for each in Folder(split, tmp_path).names) == ["a", "b", name]


def test_labels_may_lie_in_a_split_of_another_spelling(tmp_path: Path) -> None:
    root = files(tmp_path, "Training/a", "Training/b", "val/c")
    (root / "labels/Training").rename(root / "labels/train")
    assert Folder("train", root).names == ["Training/a", "Training/b"]


def test_a_folder_without_labels_is_named(tmp_path: Path) -> None:
    shutil.rmtree(files(tmp_path, "train/a") / "labels")
    with pytest.raises(FileNotFoundError, match=r"with images/ and labels/: no folder .*labels"):
        Folder("train", tmp_path)


def test_a_split_without_labels_stops_no_other(tmp_path: Path) -> None:
    root = files(tmp_path, *(f"{split}/{i}" for split in SPLITS for i in range(2)))
    (root / "classes.txt").unlink()
    for path in (root / "labels/test").iterdir():
        path.unlink()
    assert Folder("train", root).tasks["semantic"].channels == 3
    with pytest.raises(FileNotFoundError, match="must have a label"):
        Folder("test", root)


def test_two_folders_of_one_split_and_lists_of_splits_are_refused(tmp_path: Path) -> None:
    files(tmp_path / "a", "train/a", "val/a", "Validation/b")
    with pytest.raises(ValueError, match="must have one folder for the split val, got Validation and val"):
        Folder("train", tmp_path / "a")
    files(tmp_path / "c", "a", "b", "c", "d")
    (tmp_path / "c/ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "c/ImageSets/Segmentation/trainval.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"lists such as ImageSets/Segmentation/trainval\.txt are not read"):
        Folder("train", tmp_path / "c")
    files(tmp_path / "b", "a", "b", "c", "d")
    (tmp_path / "b/val.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"lists such as val\.txt are not read"):
        Folder("train", tmp_path / "b")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf\r\n"])
def test_an_empty_list_of_frames_is_named(tmp_path: Path, split: str, content: bytes) -> None:
    (make_camvid(tmp_path) / f"{split}.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"{split}\.txt must list the images of the split, one in a line, got none"):
        CamVid(split, tmp_path)


def test_a_split_without_a_sample_is_refused(tmp_path: Path) -> None:
    (make_camvid(tmp_path) / "train.txt").write_text("trainV0_00000\n")
    with pytest.raises(ValueError, match="split 'holdout' must have at least one sample, got none"):
        CamVid("holdout", tmp_path)
    with pytest.raises(ValueError, match="length must be a whole number, at least 1, got 0"):
        Scenes("train", length=0)


def test_lists_of_frames_may_have_a_mark_and_spaces_but_no_other_encoding_and_no_frame_twice(tmp_path: Path) -> None:
    root = make_camvid(tmp_path)
    write_pair(root, "val/a frame")
    (root / "val.txt").write_bytes(b"\xef\xbb\xbfvalV0_00000 \r\n\r\n a frame\r\n")
    assert CamVid("val", root).names == ["valV0_00000", "a frame"]
    (root / "val.txt").write_bytes("straße\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"val\.txt must be text in UTF-8"):
        CamVid("val", root)
    (root / "val.txt").write_text("valV0_00000\nvalV1_00000\nvalV0_00000\n")
    with pytest.raises(ValueError, match=r"val\.txt must list an image once, got valV0_00000 again"):
        CamVid("val", root)


# Links, other files, other cases


def test_linked_folders_and_files_count(tmp_path: Path) -> None:
    elsewhere = files(tmp_path / "elsewhere", *(f"train/{i}" for i in range(5)), "a")
    root = files(tmp_path / "root", "train/day/a", "val/a")
    for kind, suffix in (("images", "png"), ("labels", "png")):
        (root / kind / "train/night").symlink_to(elsewhere / kind / "train")
        (root / kind / f"train/b.{suffix}").symlink_to(elsewhere / kind / f"a.{suffix}")
        (root / kind / "test").symlink_to(elsewhere / kind / "train", target_is_directory=True)
    night = [f"train/night/{i}" for i in range(5)]
    assert Folder("train", root).names == ["train/b", "train/day/a", *night]
    assert Folder("test", root).names == [f"test/{i}" for i in range(5)]
    assert len(read_label_maps(root / "labels")) == 5 + 5 + 3


def test_a_file_that_links_lead_to_twice_is_not_divided_by_chance(tmp_path: Path) -> None:
    root = files(tmp_path, *(f"2024/{i}" for i in range(5)))
    for kind in ("images", "labels"):
        (root / kind / "latest").symlink_to(root / kind / "2024")
    with pytest.raises(ValueError, match=r"images must be files of their own .*latest/0\.png is .*2024/0\.png"):
        Folder("train", root)


@pytest.mark.parametrize("kind", ["images", "labels"])
@pytest.mark.parametrize("link", ["train/new.png", "train/night"])
def test_a_link_that_leads_nowhere_or_in_a_circle_is_named(tmp_path: Path, kind: str, link: str) -> None:
    root = files(tmp_path, "train/a", "val/a")
    path = root / kind / link
    path.symlink_to("/nowhere")
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(str(path))} must be a file .* a link to /nowhere"):
        Folder("train", root)
    path.unlink()
    path.symlink_to(root / kind)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} must not be a link to a folder that holds it"):
        Folder("train", root)
    if kind == "labels":
        with pytest.raises(ValueError, match="must not be a link to a folder that holds it"):
            read_label_maps(root / "labels")


def test_suffixes_may_have_capital_letters_everywhere(tmp_path: Path) -> None:
    for root, name, make in ((tmp_path / "a", "val/a", files), (tmp_path / "b", "val/valV0_00000", make_camvid)):
        make(root, *(["val/a", "train/b"] if make is files else []))
        for path in [*root.rglob("*.png"), *root.rglob("*.jpg")]:
            if path.stem == name.split("/")[1]:
                path.rename(path.with_suffix(path.suffix.upper()))
        dataset = (Folder if make is files else CamVid)("val", root)
        assert dataset.label_file(0) == root / f"labels/{name}.PNG"
    assert len(read_label_maps(tmp_path / "a/labels")) == 2
    shutil.copy(tmp_path / "a/labels/val/a.PNG", tmp_path / "a/labels/val/a.png")
    with pytest.raises(ValueError, match=r"files must differ in more than the case of their suffixes, got .*a\.PNG"):
        Folder("val", tmp_path / "a")


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    root = files(tmp_path, "train/a", "train/.ipynb_checkpoints/a", "train/._a", ".trash/b")
    (root / "images/train/.#lock").symlink_to("/nowhere")
    (root / "labels/._a.png").write_bytes(b"\x00\x05\x16\x07")
    assert Folder("train", root).names == ["train/a"]
    assert len(read_label_maps(root / "labels")) == 1


def test_what_was_passed_over_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = files(tmp_path, "train/a", "train/b")
    for name in ("a.gif", "b.HEIC", "c.heic", "notes"):
        (root / "images/train" / name).write_bytes(b"")
    (root / "images/train/b.png").unlink()
    with caplog.at_level(logging.INFO, "inverseform_fast"):
        dataset = Folder("train", root)
    (line,) = caplog.messages
    assert line == dataset.seen
    assert "; passed over 4 files in images/ (1 of .gif, 2 of .heic, 1 of no suffix); 1 labels have no image" in line


def test_nothing_odd_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "inverseform_fast"):
        Folder("train", make_folder(tmp_path))
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert re.fullmatch(
        r"train: 4 label maps with 3 classes, which all occur, and 2\d\.\d % of the pixels are void", record.message
    )


@pytest.mark.parametrize("cache", ["no", "False", 1])
def test_cache_is_true_or_false(tmp_path: Path, cache: object) -> None:
    with pytest.raises(ValueError, match=f"cache must be true or false, got {cache!r}"):
        Folder("train", make_folder(tmp_path), cache=cache)  # type: ignore[arg-type]
