"""The picture of moved labels, and the program that draws the guide's and says what moving brings and costs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.quiver import Quiver
from PIL import Image

from benchmarks import aligner
from inverseform_fast.segmentation.moved_labels import MovedLabels, draw_moved
from inverseform_fast.segmentation.tasks import SemanticTask


def test_a_row_shows_the_labels_before_and_after_and_how_far_they_went() -> None:
    task = SemanticTask(classes=("sky", "road"), colors=((0, 0, 250), (0, 250, 0)))
    before = torch.zeros(20, 30, dtype=torch.uint8)
    before[:, 10:] = 1
    after = before.roll(4, -1)
    displacement = torch.tensor([-3.0, 4.0])[:, None, None].expand(2, 20, 30)
    image = torch.full((3, 20, 30), 100, dtype=torch.uint8)
    figure = draw_moved([MovedLabels("first", image, before, after, displacement)] * 2, task)
    axes = figure.axes[:4]
    titles = [axis.get_title() for axis in axes]
    assert titles == ["first", "labels as given", "labels moved", "mean 5.0 px; arrows 3 times as long"]
    pictures = [np.asarray(axis.images[0].get_array()) for axis in axes]
    assert (pictures[0] == 100).all()
    for picture, labels in ((pictures[1], before), (pictures[2], after)):
        assert np.array_equal(picture[..., 1] > 100, labels == 1)
    assert np.allclose(pictures[3], 5)
    (arrows,) = axes[3].collections
    assert isinstance(arrows, Quiver)
    assert set(np.ravel(arrows.U)) == {9.0}  # a label that was read on the left went to the right
    assert set(np.ravel(arrows.V)) == {-12.0}


def test_the_program_says_what_moving_brings_and_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(aligner, "CROP", (64, 64))
    arguments = ["--scenes", "2", "--rounds", "2", "--out", str(tmp_path / "labels.png")]
    monkeypatch.setattr(sys, "argv", ["aligner", *arguments])
    aligner.main()
    brings, _, *costs = capsys.readouterr().out.splitlines()
    before, after, exact = (float(word.rstrip("%")) for word in brings.split() if word.endswith("%"))
    assert after < 0.7 * before
    assert exact < 0.1
    assert [line.split(":")[0] for line in costs] == [
        "headless, loss",
        "headless, aligner",
        "with a head, loss",
        "with a head, aligner",
    ]
    with Image.open(tmp_path / "labels.png") as picture:
        assert picture.width > 800
