"""Calibration measures the loss on a user's own label maps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import inverseform_fast as iff
from inverseform_fast import homography
from inverseform_fast.functional import boundary_map, extract_tiles
from inverseform_fast.inverse_net import calibration
from inverseform_fast.inverse_net.calibration import DISPLACEMENTS, calibrate, draw, write
from inverseform_fast.inverse_net.label_maps import read_label_maps
from inverseform_fast.nets import Align
from inverseform_fast.scenes import street


def scene(height: int, width: int, seed: int = 0) -> Tensor:
    return street.label_maps(1, height, width, torch.Generator().manual_seed(seed))[0]


@pytest.mark.parametrize(
    ("size", "resized"), [((20, 100), (32, 96)), ((70, 45), (64, 32)), ((16, 16), (32, 32)), ((64, 96), (64, 96))]
)
def test_tiles_are_those_of_the_loss(size: tuple[int, int], resized: tuple[int, int]) -> None:
    seen: list[Tensor] = []

    class Recorder(Align):
        def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
            seen.append(target[:1])
            return super().algebra(predicted, target)

    labels = scene(*size)
    labels[:3] = 255
    calibrate(Recorder(tile=32), [labels], views=12)
    target = boundary_map(labels[None])[:, None]
    _, tiles = extract_tiles(torch.zeros(1, 1, *size), target, resized, 32)
    for tile in seen:
        assert (tiles - tile).abs().flatten(1).amax(1).min() < 1e-4


def test_an_oracle_reads_the_displacement_and_points_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the tile is the whole map, the homographies are the displacements, so an oracle may get them as pixels."""

    def write_down(image: Tensor, theta: Tensor, size: tuple[int, int], padding: str) -> Tensor:
        pixels = torch.nn.functional.pad(homography.log(theta), (0, size[0] * size[1] - 8))
        return pixels.unflatten(-1, (1, *size))

    class Oracle(Align):
        def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
            return (predicted - target).flatten(1)[:, :8]

    monkeypatch.setattr(calibration, "homography_warp", write_down)
    crisp = calibrate(Oracle(tile=64), [scene(64, 64)], views=5)["crisp"]
    for percent in ("5", "50", "95"):
        assert crisp["value"][percent] == pytest.approx(DISPLACEMENTS, abs=1e-3)
        assert crisp["direction_error"][percent][0] is None
        assert crisp["direction_error"][percent][1:] == pytest.approx([0] * (len(DISPLACEMENTS) - 1), abs=0.1)
    assert crisp["match"] == 0


def test_shipped_network_is_calibrated_on_maps_of_any_size() -> None:
    result = calibrate(iff.InverseTransformNet.compact(), [scene(150, 200), scene(280, 320, 1)], views=4)
    assert (result["tile"], result["views"], result["displacement"]) == (224, 4, list(DISPLACEMENTS))
    crisp = result["crisp"]
    assert crisp["match"] == 0
    assert 4 < crisp["value"]["50"][DISPLACEMENTS.index(8)] < 12
    angle = crisp["direction_error"]["50"][DISPLACEMENTS.index(8)]
    assert angle is not None
    assert angle < 80
    assert result["degraded"]["match"] > 0
    ordered = torch.tensor(list(crisp["value"].values()))
    assert (ordered.diff(dim=0) >= 0).all()


def test_repeats_by_seed_and_is_written_whole(net: str, tmp_path: Path) -> None:
    small = iff.InverseTransformNet.from_file(net)
    result, again = (calibrate(small, [scene(64, 96)], views=3, seed=5) for _ in range(2))
    assert result == again
    write(result, tmp_path / "out" / "calibration.json")
    draw(result, tmp_path / "out" / "calibration.png")
    assert json.loads((tmp_path / "out" / "calibration.json").read_text()) == result
    with Image.open(tmp_path / "out" / "calibration.png") as picture:
        assert picture.width > 1000
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_label_files_are_read_evenly_from_sub_folders(tmp_path: Path) -> None:
    for index in range(7):
        folder = tmp_path / f"town{index % 2}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.full((4 + index, 5), index, np.uint8)).save(folder / f"{index}.png")
    maps = read_label_maps(tmp_path)
    assert [tuple(labels.shape) for labels in maps] == [(4 + i, 5) for i in (0, 2, 4, 6, 1, 3, 5)]
    assert [int(labels[0, 0]) for labels in read_label_maps(tmp_path, limit=3)] == [0, 6, 5]


def test_a_bad_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="labels must be a folder of PNG label maps: no folder"):
        read_label_maps(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="labels must hold PNG files"):
        read_label_maps(tmp_path)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG torn")
    with pytest.raises(ValueError, match=r"label .*torn.png must be a readable image file"):
        read_label_maps(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "torn.png")
    with pytest.raises(ValueError, match=r"label .*torn.png must have one 8-bit channel .* got mode RGB"):
        read_label_maps(tmp_path)


def test_maps_without_a_boundary_are_refused(net: str) -> None:
    small = iff.InverseTransformNet.from_file(net)
    with pytest.raises(ValueError, match="label_maps must hold at least one label map, got none"):
        calibrate(small, [])
    with pytest.raises(ValueError, match="views must be at least 1, got 0"):
        calibrate(small, [scene(64, 64)], views=0)
    one_class = torch.ones(64, 64, dtype=torch.uint8)
    outlined = one_class.clone()
    outlined[:, 20:30], outlined[:, 30:] = 255, 2
    with pytest.raises(ValueError, match="must show a boundary between two classes, but none of 2 does"):
        calibrate(small, [one_class, outlined])
