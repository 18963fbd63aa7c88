"""Corrected label files have the names, ids and palettes of the originals, which stay, and a report ranks them."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from training_runs import run, tiny_config

from inverseform_fast import aligner, cli
from inverseform_fast.nets import Align
from inverseform_fast.segmentation import label_files, report
from inverseform_fast.segmentation.checkpoint import load_checkpoint, save_checkpoint
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import Scenes, build_dataset
from inverseform_fast.segmentation.label_files import align_label_files
from inverseform_fast.segmentation.tasks import SemanticTask

PALETTE = [value for i in range(256) for value in (i, 255 - i, 7)]
NAMES = [f"{split}/{split}V_{i}" for split in ("train", "val", "test") for i in range(2)]


def write_scenes(root: Path) -> None:
    """Writes made scenes as the data sets folder and camvid at once; half of the labels have a palette."""
    scenes = Scenes("train", size=(48, 64), length=len(NAMES))
    for index, name in enumerate(NAMES):
        sample = scenes[index]
        picture = Image.fromarray(sample["image"].as_subclass(Tensor).movedim(0, -1).numpy())
        label = Image.fromarray(sample["semantic"].as_subclass(Tensor).numpy())
        if index % 2:
            label.putpalette(PALETTE)
        for file, image in ((f"images/{name}.jpg", picture), (f"labels/{name}.png", label)):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            image.save(root / file)
        with (root / f"{name.split('/')[0]}.txt").open("a") as names:
            names.write(f"{name.split('/')[1]}\n")
    task = scenes.tasks["semantic"]
    assert isinstance(task, SemanticTask)
    (root / "classes.json").write_text(json.dumps(task.classes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, net: str) -> TrainConfig:
    """A run on files, which no test may change."""
    out = tmp_path_factory.mktemp("trained")
    write_scenes(out / "data")
    config = tiny_config(out, net, data="folder", root=str(out / "data"), data_options={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw_rows", lambda *_: None)
        run(config)
    return config


@pytest.fixture(autouse=True)
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network reads a shift off anything: of 3 pixels, or of more where the first label is a higher class."""

    def algebra(_: Align, predicted: Tensor, target: Tensor) -> Tensor:
        return (3 / 16 + target.mean((1, 2, 3)) / 4)[:, None] * torch.eye(8)[:1]

    monkeypatch.setattr(Align, "algebra", algebra)
    monkeypatch.setattr(aligner, "_SEEN", 0.0)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a network with a noise figure."""
    network = Align(tile=32)
    network.noise = 0.001
    path = tmp_path_factory.mktemp("net") / "quiet.safetensors"
    network.save(path)
    return str(path)


def labels_in(folder: Path) -> dict[str, np.ndarray]:
    return {path.relative_to(folder).as_posix(): np.array(Image.open(path)) for path in sorted(folder.rglob("*.png"))}


@pytest.mark.parametrize("data", ["folder", "camvid"])
def test_files_keep_their_names_ids_void_and_palettes(
    trained: TrainConfig, quiet: str, tmp_path: Path, data: str
) -> None:
    root = Path(str(trained.root))
    before = {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
    out = tmp_path / "out"
    shifts = align_label_files(Path(trained.out), out, data, str(root), "train", net=quiet)
    assert {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()} == before
    given, moved = labels_in(root / "labels"), labels_in(out / "labels")
    assert sorted(moved) == ["train/trainV_0.png", "train/trainV_1.png"] == sorted(s.file[7:] for s in shifts)
    for name, labels in moved.items():
        assert labels.dtype == np.uint8
        assert (labels != given[name]).any()
        assert {*np.unique(labels)} <= {*np.unique(given[name]), 255}
        originals, files = (Image.open(folder / "labels" / name) for folder in (root, out))
        assert files.mode == originals.mode
        assert files.getpalette() == originals.getpalette()
    assert Image.open(out / "labels/train/trainV_1.png").mode == "P"
    assert not list(out.rglob("*.tmp"))


def test_the_report_ranks_the_images_by_how_far_their_labels_were_off(
    trained: TrainConfig, quiet: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shifts = align_label_files(Path(trained.out), out, net=quiet, split="val")
    assert [dataclasses.asdict(shift) for shift in shifts] == json.loads((out / "report.json").read_text())
    assert len(shifts) == 2
    assert shifts[0].mean_px > shifts[1].mean_px > 2
    for shift in shifts:
        assert 0 < shift.median_px <= shift.max_px < 8
        assert 0 < shift.pixels_changed < 1
        assert 0 < shift.tiles_moved <= 1
    text = (out / "report.md").read_text()
    assert text.index(f"| {shifts[0].name} | {shifts[0].mean_px:.1f} |") < text.index(f"| {shifts[1].name} |")
    assert "The labels of 2 of 2 images were moved, by the model of" in text
    assert "](worst.png)" in text
    with Image.open(out / "worst.png") as picture:
        assert picture.width > 800


def test_the_same_again_gives_the_same_files(trained: TrainConfig, quiet: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        align_label_files(Path(trained.out), tmp_path / name, net=quiet)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("one", "two")
    )
    assert first == second
    align_label_files(Path(trained.out), tmp_path / "two", net=quiet, overwrite=True)
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "two").rglob("*") if path.is_file()}


def test_a_folder_has_a_report_only_when_it_is_complete(
    trained: TrainConfig, quiet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    align_label_files(Path(trained.out), tmp_path, net=quiet)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(label_files, "_write_labels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        align_label_files(Path(trained.out), tmp_path, net=quiet, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["labels"]


def test_made_scenes_get_files_by_their_names(trained: TrainConfig, quiet: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(Path(trained.out))
    options = {"size": [48, 64], "length": 2}
    checkpoint.config = dataclasses.replace(trained, data="scenes", root=None, data_options=options)
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    align_label_files(tmp_path, tmp_path / "out", net=quiet)
    assert sorted(labels_in(tmp_path / "out/labels")) == ["train_00000.png", "train_00001.png"]


def test_moved_labels_are_a_data_set_again(trained: TrainConfig, quiet: str, tmp_path: Path) -> None:
    root, out = Path(str(trained.root)), tmp_path / "out"
    for split in ("train", "val", "test"):
        align_label_files(Path(trained.out), out, split=split, net=quiet, overwrite=True)
    (out / "images").symlink_to(root / "images")
    (out / "classes.json").symlink_to(root / "classes.json")
    assert len(build_dataset("folder", "train", str(out))) == 2


def test_the_network_that_was_tuned_on_the_run_comes_first(trained: TrainConfig, quiet: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(Path(trained.out))
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    with pytest.warns(UserWarning, match="net has no noise figure"):
        align_label_files(tmp_path, tmp_path / "one")
    assert "the network predictions" in (tmp_path / "one/report.md").read_text()
    (tmp_path / "tuned.safetensors").write_bytes(Path(quiet).read_bytes())
    align_label_files(tmp_path, tmp_path / "two")
    assert f"the network {tmp_path / 'tuned.safetensors'}" in (tmp_path / "two/report.md").read_text()


def test_a_model_that_is_not_finite_moves_nothing_and_is_reported(
    trained: TrainConfig, quiet: str, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(Path(trained.out))
    for name, weights in checkpoint.model.items():
        if name.startswith("heads."):
            weights.fill_(3e38)  # finite, as a checkpoint must be, but its products are not
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    shifts = align_label_files(tmp_path, tmp_path / "out", net=quiet)
    assert not any(shift.finite or shift.max_px or shift.tiles_moved for shift in shifts)
    given = labels_in(Path(str(trained.root)) / "labels")
    assert all((labels == given[name]).all() for name, labels in labels_in(tmp_path / "out/labels").items())
    text = (tmp_path / "out/report.md").read_text()
    assert "The predictions of train/trainV_0, train/trainV_1 are not finite; their labels stay." in text
    assert "The labels of 0 of 2 images" in text
    assert not (tmp_path / "out/worst.png").exists()


@pytest.mark.parametrize("where", [lambda root: root, lambda root: root / "new", lambda root: root.parent])
def test_the_out_folder_lies_apart_from_the_data_set(
    trained: TrainConfig, quiet: str, where: Callable[[Path], Path]
) -> None:
    root = Path(str(trained.root))
    with pytest.raises(ValueError, match="out must be a folder apart from that of the data set"):
        align_label_files(Path(trained.out), where(root), net=quiet, overwrite=True)
    assert not (root / "new").exists()


def test_files_in_the_out_folder_are_not_lost(trained: TrainConfig, quiet: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out must be a folder without files, but .* holds notes\.txt"):
        align_label_files(Path(trained.out), tmp_path, net=quiet)
    with pytest.raises(FileExistsError, match=r"out must be a folder, but .*notes\.txt is a file"):
        align_label_files(Path(trained.out), tmp_path / "notes.txt", net=quiet)
    (tmp_path / "labels").symlink_to(Path(str(trained.root)) / "labels")
    with pytest.raises(ValueError, match="out must not lead to the original labels"):
        align_label_files(Path(trained.out), tmp_path, net=quiet, overwrite=True)


def test_the_command_writes_labels_and_says_where(
    trained: TrainConfig,
    quiet: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [trained.out, "--out", str(tmp_path / "out"), "--net", quiet, "--device", "cpu", "--split", "test"]
    for expected in (0, f"error: out must be a folder without files, but {tmp_path / 'out'} holds"):
        monkeypatch.setattr(sys, "argv", ["inverseform-fast", "align", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert str(end.value.code).startswith(str(expected))
    printed = capsys.readouterr().out.replace("\n", "")
    assert f"The labels of 2 of 2 images were moved. The report is in {tmp_path / 'out/report.md'}" in printed
    assert sorted(labels_in(tmp_path / "out/labels")) == ["test/testV_0.png", "test/testV_1.png"]
