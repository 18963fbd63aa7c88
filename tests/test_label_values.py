"""The values of label files are read as they were meant, or the error says how to say what they mean."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import semantic, write_pair
from PIL import Image, ImageOps
from training_runs import run, tiny_config

from inverseform_fast.inverse_net.label_maps import collect_label_maps, read_label_maps
from inverseform_fast.segmentation.checkpoint import load_checkpoint
from inverseform_fast.segmentation.datasets import CamVid, Folder, build_dataset
from inverseform_fast.segmentation.datasets.label_counts import map_of
from inverseform_fast.segmentation.datasets.label_map import LabelMap
from inverseform_fast.segmentation.evaluation import evaluate_checkpoint

HINT = "--data-option label_map="


def folder(root: Path, values: np.ndarray, classes: str = "", names: tuple[str, ...] = ("train/a", "val/b")) -> Path:
    """Writes a data set whose label maps all hold ``values``, in 20 x 30 pixels."""
    for name in names:
        write_pair(root, name, ".png", label=np.resize(values, (20, 30)))
    if classes:
        (root / "classes.txt").write_text(classes.replace(" ", "\n"))
    return root


def uint8(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


# The label map


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ("0:0,255:1", {0: 0, 255: 1}),
        (" 0:0, 255:1 ", {0: 0, 255: 1}),
        ({"0": 0, "255": "1"}, {0: 0, 255: 1}),
        ({0: 0, 255: 1}, {0: 0, 255: 1}),
        ("0:void,1-3:0-2", {0: 255, 1: 0, 2: 1, 3: 2, 255: 255}),
        ("7:0,8:1,else:void", {0: 255, 7: 0, 8: 1, 9: 255, 255: 255, 65535: 255}),
        ("0-6:Void,7-8:0,24-25:1-2,65535:255", {0: 255, 6: 255, 7: 0, 8: 0, 24: 1, 25: 2, 255: 255, 65535: 255}),
        ("0:0,else:1", {0: 0, 1: 1, 255: 1, 300: 1}),
    ],
)
def test_a_label_map_gives_values_their_classes(pairs: object, expected: dict[int, int]) -> None:
    ids = LabelMap(pairs).ids  # type: ignore[arg-type]
    assert {value: int(ids[value]) for value in expected} == expected
    if "else" not in str(pairs):
        assert (ids >= 0).sum() == len(expected) + ("0-6" in str(pairs)) * 5


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("", "must be VALUE:CLASS pairs such as 0:0,255:1, got ''"),
        (7, "must be VALUE:CLASS pairs such as 0:0,255:1, got 7"),
        ([[0, 0]], "must be VALUE:CLASS pairs"),
        ("0:0,255", "must be VALUE:CLASS pairs"),
        ("0=0,255=1", "must be VALUE:CLASS pairs"),
        ("0:0,70000:1", r"must have a value, a range of values or else \(0..65535\) .* got '70000'"),
        ("0:0,1:256", r"must have a class id, a range of them or void \(0..255\) .* got '256'"),
        ("0:0,1:-1", r"must have a class id, .* got '-1'"),
        ("0:0,3-1:1", r"must have a value, .* got '3-1'"),
        ("0:road", r"must have a class id, .* got 'road'"),
        ({"0": 0.5}, r"must have a class id, .* got '0.5'"),
        ("1-3:0-1", "must have ranges of one length in a pair, got 1-3:0-1"),
        ("0:0-1", "must have ranges of one length in a pair, got 0:0-1"),
        ("0:0,0-3:1", "must list a value once, got 0 twice"),
        ("0:0,else:1,else:2", "must give one class to else, once"),
        ("0:0,else:1-2", "must give one class to else, once"),
        ("9" * 5000 + ":0", "must have a value"),
    ],
)
def test_a_bad_label_map_is_named(pairs: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"label_map {message}"):
        LabelMap(pairs)  # type: ignore[arg-type]


def test_the_map_that_is_proposed_is_a_map() -> None:
    values, ids = [0, 1, 2, 7, 8, 200], [0, 1, 2, 3, 4, 9]
    assert map_of(values, ids) == "0-2:0-2,7-8:3-4,200:9"
    assert LabelMap(map_of(values, ids)).ids[values].tolist() == ids


@pytest.mark.parametrize(
    ("values", "label_map", "expected"),
    [
        ((0, 255, 255, 0), "0:0,255:1", (0, 1, 1, 0)),
        ((1, 2, 0, 2), "0:void,1-2:0-1", (0, 1, 255, 1)),
        ((7, 11, 3, 255), "7:0,11:1,else:void", (0, 1, 255, 255)),
        ((0, 128, 0, 255), "0:0,128:1", (0, 1, 0, 255)),
    ],
)
def test_files_are_read_by_the_map_and_stay_as_they_are(
    tmp_path: Path, values: tuple[int, ...], label_map: str, expected: tuple[int, ...]
) -> None:
    root = folder(tmp_path, uint8(*values), "background object")
    before = (root / "labels/train/a.png").read_bytes()
    dataset = build_dataset("folder", "train", root, label_map=label_map)
    assert torch.equal(dataset[0]["semantic"], torch.from_numpy(np.resize(uint8(*expected), (20, 30))))
    assert (root / "labels/train/a.png").read_bytes() == before
    (root / "classes.txt").unlink()
    assert semantic(build_dataset("folder", "train", root, label_map=label_map)).classes == ("class 0", "class 1")
    maps = read_label_maps(root / "labels", label_map=label_map)
    assert all(torch.equal(labels, dataset[0]["semantic"]) for labels in maps)


def test_camvid_and_the_training_of_networks_take_a_map(tmp_path: Path) -> None:
    root = folder(tmp_path, uint8(0, 255))
    (root / "train.txt").write_text("a\n")
    (root / "images/train/a.png").rename(root / "images/train/a.jpg")
    (root / "classes.json").write_text('["background", "object"]')
    options = {"label_map": "0:0,255:1"}
    assert CamVid("train", root, label_map="0:0,255:1")[0]["semantic"].unique().tolist() == [0, 1]
    for data in ("camvid", "folder"):
        maps = collect_label_maps(data, "train", root, (20, 30), 0, 0, 0, data_options=options)
        assert maps.unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ("0:0,255:2", "label_map must give class ids 0..1 or void, got 2"),
        ("0:0", r"a\.png must have values that label_map lists, also got 7"),
        ("else:void", None),
    ],
)
def test_a_map_that_does_not_fit_is_named(tmp_path: Path, label_map: str, message: str | None) -> None:
    root = folder(tmp_path, uint8(0, 7), "background object")
    if message is None:
        with pytest.raises(ValueError, match=r"label maps of train must show at least two classes .* 0 occur"):
            build_dataset("folder", "train", root, label_map=label_map).check_for_training()
    else:
        with pytest.raises(ValueError, match=message):
            build_dataset("folder", "train", root, label_map=label_map)


# Files of labels that mean something else


@pytest.mark.parametrize("classes", ["", "background object"])
@pytest.mark.parametrize("share", [2, 300])
def test_masks_of_0_and_255_are_refused_with_the_way_out(tmp_path: Path, classes: str, share: int) -> None:
    root = folder(tmp_path, uint8(255, *[0] * (share - 1)), classes)
    for split in ("train", "val"):
        with pytest.raises(ValueError, match=f"{HINT}0:0,255:1"):
            Folder(split, root)
        assert Folder(split, root, label_map="0:0,255:1").seen.endswith(
            "which all occur, and 0.0 % of the pixels are void"
        )
    if classes:
        assert "not object" in Folder("val", root, label_map="0:0,255:void").seen
        with pytest.raises(ValueError, match="must show at least two classes to train on"):
            Folder("train", root, label_map="0:0,255:void").check_for_training()


def test_much_void_where_a_class_never_occurs_is_no_training_set(tmp_path: Path) -> None:
    root = folder(tmp_path, uint8(0, 1, 255), "background a b")
    dataset = Folder("train", root)
    assert "3 classes, of which 2 occur (not b), and 33.3 % of the pixels are void" in dataset.seen
    message = (
        r"b never occurs, and 33.3% of the pixels are 255, .*label_map=0-1:0-1,255:2; .*label_map=0-1:0-1,255:void"
    )
    with pytest.raises(ValueError, match=message):
        dataset.check_for_training()
    Folder("train", root, label_map="0-1:0-1,255:2").check_for_training()
    Folder("train", root, label_map="0-1:0-1,255:void").check_for_training()
    folder(tmp_path, uint8(0, 1, *[1] * 9, 255), "background a b")  # void is 8 %
    Folder("train", root).check_for_training()


@pytest.mark.parametrize(
    ("values", "count", "found"),
    [((0, 128), 129, "0, 128"), ((0, 38, 75, 113), 114, "0, 38, 75, 113"), ((0, 1, 2, 3, 254), 255, "0, 1, 2, 3, 254")],
)
def test_classes_that_the_values_invent_are_refused_with_the_way_out(
    tmp_path: Path, values: tuple[int, ...], count: int, found: str
) -> None:
    root = folder(tmp_path, uint8(*values, 255))
    with pytest.raises(ValueError, match=rf"got {count} classes, of which {len(values)} occur \({found}\)") as error:
        Folder("train", root)
    proposed = str(error.value).split(HINT)[1]
    assert len(semantic(Folder("train", root, label_map=proposed)).classes) == len(values)
    (root / "classes.txt").write_text("\n".join(map(str, range(count))))
    assert f"{count} classes, of which {len(values)} occur" in Folder("train", root).seen


def test_training_and_evaluation_refuse_before_they_begin(tmp_path: Path, net: str) -> None:
    root = folder(tmp_path / "data", uint8(0, 0, 0, 255), "background object")
    config = tiny_config(tmp_path, net, data="folder", root=str(root), data_options={})
    with pytest.raises(ValueError, match=f"object never occurs, .*{HINT}0:0,255:1"):
        run(config)
    folder(tmp_path / "data", uint8(0, 0, 0, 0))
    with pytest.raises(ValueError, match="must show at least two classes to train on, got 2 classes, of which 1 occur"):
        run(config)
    assert not Path(config.out).exists()


@pytest.mark.usefixtures("no_pictures")
def test_a_run_keeps_its_map_and_evaluation_takes_another(tmp_path: Path, net: str) -> None:
    root = folder(tmp_path / "data", uint8(0, 0, 0, 255), "background object")
    config = tiny_config(tmp_path, net, data="folder", root=str(root), data_options={"label_map": "0:0,255:1"}, steps=1)
    scores = run(dataclasses.replace(config, loss="ce", boundary_head=False))
    checkpoint = load_checkpoint(Path(config.out))
    again = evaluate_checkpoint(checkpoint, batch_size=2, device="cpu")
    assert again["iou/background"] == scores["iou/background"]
    other = evaluate_checkpoint(checkpoint, device="cpu", data_options={"label_map": "0:1,255:0"})
    assert other["pixel_accuracy"] == pytest.approx(1 - scores["pixel_accuracy"])


def test_one_class_of_many_and_void_in_a_small_split_is_no_mask_of_0_and_255(tmp_path: Path) -> None:
    root = folder(tmp_path, uint8(0, 255), "a b c")
    assert "3 classes, of which 1 occur, and 50.0 % of the pixels are void" in Folder("val", root).seen


# Formats


def png(values: np.ndarray, bits: int) -> bytes:
    """Writes a grey PNG of so many bits by hand; Pillow writes no grey values of 2 and 4."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    digits = ["".join(f"{value:0{bits}b}" for value in row) for row in values.tolist()]
    rows = [bytes(int(row[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(row), 8)) for row in digits]
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_grey_values_of_any_bits_are_ids(tmp_path: Path, bits: int) -> None:
    values = np.random.default_rng(0).integers(0, min(2**bits, 200), (20, 30))
    root = folder(tmp_path, uint8(0))
    (root / "labels/train/a.png").write_bytes(png(values, bits))
    (root / "classes.txt").write_text("\n".join(f"class {i}" for i in range(min(2**bits, 200))))
    assert np.array_equal(Folder("train", root)[0]["semantic"].numpy(), values)


def test_values_of_16_bits_are_no_void_and_wrap_nowhere(tmp_path: Path) -> None:
    root = folder(tmp_path, np.array([0, 256, 511, 65535], np.uint16), "a b c")
    with pytest.raises(
        ValueError, match=r"a\.png must have class ids 0\.\.2 or 255 for void, also got 256, 511, 65535"
    ):
        Folder("train", root)
    labels = Folder("train", root, label_map="0:0,256:1,511:2,65535:void")[0]["semantic"]
    assert labels[0, :4].tolist() == [0, 1, 2, 255]
    (root / "classes.txt").unlink()
    with pytest.raises(ValueError, match="got 65536 classes, of which 4 occur"):
        Folder("train", root)
    with pytest.raises(ValueError, match=r"must have class ids 0\.\.254 or 255 for void, also got 256"):
        read_label_maps(root / "labels")


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "WEBP", "TIFF"])
def test_a_label_of_another_format_with_the_suffix_png_is_named(tmp_path: Path, kind: str) -> None:
    root = folder(tmp_path, uint8(0, 1, 2))
    path = root / "labels/train/a.png"
    Image.open(path).save(path, format=kind)
    for read in (lambda: Folder("train", root), lambda: read_label_maps(root / "labels")):
        with pytest.raises(ValueError, match=rf"a\.png must be a PNG file, .* but holds {kind}"):
            read()


# EXIF


def turned(path: Path, orientation: int, size: tuple[int, int] = (30, 20)) -> np.ndarray:
    """Writes an image (width, height) with an orientation; returns what viewers show, (H, W, 3)."""
    pixels = np.random.default_rng(orientation).integers(0, 256, (size[1], size[0], 3), np.uint8)
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_viewers_show_them(tmp_path: Path, orientation: int) -> None:
    root = folder(tmp_path, uint8(0, 1))
    shown = turned(root / "images/train/a.png", orientation, (30, 20) if orientation < 5 else (20, 30))
    dataset = Folder("train", root)
    assert np.array_equal(dataset[0]["image"].numpy(), shown.transpose(2, 0, 1))
    assert ("; 1 images are turned as their EXIF orientation says" in dataset.seen) == (orientation > 1)


def test_a_label_is_turned_by_its_own_orientation(tmp_path: Path) -> None:
    root = folder(tmp_path, uint8(0, 1, 1))
    values = np.random.default_rng(0).integers(0, 2, (20, 30), np.uint8)
    exif = Image.Exif()
    exif[0x112] = 3
    Image.fromarray(values).save(root / "labels/train/a.png", exif=exif)
    turned(root / "images/train/a.png", 3)
    assert np.array_equal(Folder("train", root)[0]["semantic"].numpy(), values[::-1, ::-1])


def test_a_size_that_the_orientation_made_wrong_is_explained(tmp_path: Path) -> None:
    root = folder(tmp_path, uint8(0, 1))
    turned(root / "images/train/a.png", 6)
    with pytest.raises(ValueError, match=r"20x30 .* when turned as its EXIF orientation 6 says, got 30x20"):
        Folder("train", root)


@pytest.mark.parametrize(
    "exif", [b"nonsense", b"MM", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0"]
)
def test_damaged_exif_data_turn_nothing(tmp_path: Path, exif: bytes) -> None:
    root = folder(tmp_path, uint8(0, 1))
    Image.new("RGB", (30, 20)).save(root / "images/train/a.png", exif=exif)
    assert Folder("train", root)[0]["image"].shape == (3, 20, 30)


# What is written back


@pytest.mark.parametrize(
    ("values", "label_map", "given", "expected"),
    [
        ((0, 255, 0, 255), "0:0,255:1", (1, 1, 0, 0), (255, 255, 0, 0)),
        ((0, 255, 0, 255), "0:0,255:1", (255, 255, 0, 0), (0, 255, 0, 0)),  # no value is void
        ((0, 1, 2, 255), "0:void,1-2:0-1", (255, 1, 255, 0), (0, 2, 0, 1)),
        ((5, 7, 9, 255), "7:0,9:1,else:void", (255, 1, 0, 255), (5, 9, 7, 255)),
        ((0, 1, 0, 255), None, (1, 0, 0, 255), (1, 0, 0, 255)),
    ],
)
def test_moved_labels_are_written_as_the_values_that_the_map_reads(
    tmp_path: Path,
    values: tuple[int, ...],
    label_map: str | None,
    given: tuple[int, ...],
    expected: tuple[int, ...],
) -> None:
    root = folder(tmp_path, uint8(*values), "background object")
    dataset = Folder("train", root, label_map=label_map)
    written = dataset.label_values(0, torch.from_numpy(np.resize(uint8(*given), (20, 30))))
    assert written.dtype == np.uint8
    assert np.array_equal(written, np.resize(uint8(*expected), (20, 30)))
