"""Pairs of predictions and moved labels are right, and a network is tuned on those of a run."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor
from training_runs import run, tiny_config

import inverseform_fast as iff
from inverseform_fast import homography
from inverseform_fast.inverse_net import training, tuning
from inverseform_fast.inverse_net.config import NetConfig, TuneConfig
from inverseform_fast.inverse_net.evaluation import degrade
from inverseform_fast.inverse_net.noise import estimate_noise
from inverseform_fast.inverse_net.pairs import Pairs, boundaries
from inverseform_fast.inverse_net.predictions import (
    KINDS,
    Predictions,
    evaluate_predictions,
    predict_run,
    predicted_boundaries,
    prediction_pairs,
)
from inverseform_fast.inverse_net.training import train_net, training_history
from inverseform_fast.inverse_net.tuning import beside, tune_net
from inverseform_fast.nets import Align
from inverseform_fast.scenes import street
from inverseform_fast.segmentation.checkpoint import load_checkpoint, save_checkpoint

TINY = TuneConfig(steps=3, batch_size=4, max_pixels=4.0)


def perfect(labels: Tensor) -> Predictions:
    """What a headless model without an error predicts."""
    return Predictions((boundaries(labels, 2) * 255).to(torch.uint8).repeat(1, 2, 1, 1), labels)


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return street.label_maps(12, 240, 320, torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def folder(net: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on six images, which no test may change."""
    config = tiny_config(tmp_path_factory.mktemp("run"), net, data_options={"size": [48, 64], "length": 6})
    run(config)
    return Path(config.out)


def quiet() -> Console:
    return Console(quiet=True)


def test_maps_of_what_a_model_predicts(generator: torch.Generator) -> None:
    outputs = {
        "semantic": torch.randn(2, 5, 12, 16, generator=generator),
        "boundary": torch.full((2, 1, 12, 16), 2.0),
    }
    maps = predicted_boundaries(outputs, (48, 64))
    assert maps.shape == (2, 3, 48, 64)
    assert maps.dtype == torch.uint8
    head, soft, classes = maps.unbind(1)
    assert (head == round(255 * torch.tensor(2.0).sigmoid().item())).all()
    assert ((soft > 5) & (soft < 250)).any()
    assert set(classes.unique().tolist()) == {0, 255}
    assert torch.equal(predicted_boundaries({"semantic": outputs["semantic"]}, (48, 64)), maps[:, 1:])


def test_a_perfect_prediction_is_the_target_moved_by_theta(labels: Tensor, generator: torch.Generator) -> None:
    pairs = prediction_pairs([perfect(labels)], 24, 160, 0.15, generator, zoom=(1, 1))
    moved = iff.functional.homography_warp(pairs.target, homography.exp(pairs.a), padding="border")
    inside = (..., slice(30, -30), slice(30, -30))
    agreement = ((moved > 0.5) == (pairs.predicted > 0.5))[inside].float().mean()
    unmoved = ((pairs.target > 0.5) == (pairs.predicted > 0.5))[inside].float().mean()
    assert agreement > 0.975
    assert 1 - agreement < 0.4 * (1 - unmoved)


def test_pairs_come_from_all_runs_and_some_are_not_moved(labels: Tensor) -> None:
    halves = [Predictions(torch.full((6, k, 240, 320), 50 * k, dtype=torch.uint8), labels[:6]) for k in (2, 3)]
    first, second = (prediction_pairs(halves, 200, 32, 0.2, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    values = (first.predicted.flatten(1).amax(1) * 255).round()
    assert {(values == 100).sum().item() > 70, (values == 150).sum().item() > 70} == {True}
    still = first.a.norm(dim=1) == 0
    assert 0.05 < still.float().mean() < 0.3
    assert first.a.norm(dim=1).max() <= 0.2 + 1e-6


def test_void_hides_both_sides(labels: Tensor, generator: torch.Generator) -> None:
    labels = labels.clone()
    labels[..., 160:] = 255
    maps = torch.full((len(labels), 1, 240, 320), 255, dtype=torch.uint8)
    pairs = prediction_pairs([Predictions(maps, labels)], 16, 160, 1e-6, generator, zoom=(1, 1), turn=False)
    assert 0.2 < pairs.predicted.mean() < 0.9
    assert not pairs.target[pairs.predicted == 0].any()


def test_what_is_read_of_perfect_predictions(labels: Tensor) -> None:
    class Nothing(Align):
        def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
            return torch.zeros(len(predicted), 8)

    scores = evaluate_predictions(Nothing(tile=64), perfect(labels), KINDS[1], pixels=5, count=20)
    assert scores["read"] == scores["better"] == 0
    assert scores["left"] == scores["displaced"] == pytest.approx(5, rel=0.02)
    scores = evaluate_predictions(iff.InverseTransformNet.compact(), perfect(labels), KINDS[2], count=12)
    assert scores["read"] < 0.5
    assert scores["left"] < 2
    assert scores["better"] > 0.8
    with pytest.raises(ValueError, match="labels must show boundaries between two classes"):
        evaluate_predictions(Nothing(tile=64), perfect(torch.ones(2, 80, 80, dtype=torch.uint8)), KINDS[1], count=2)


def test_a_run_predicts_a_split(folder: Path) -> None:
    whole = predict_run(folder)
    assert whole.maps.shape == (6, 3, 48, 64)
    assert whole.kinds == KINDS
    assert whole.labels.max() == 255
    assert torch.equal(predict_run(folder / "last.pt", limit=3).maps, whole.maps[::2])
    train = predict_run(folder, "train", size=(24, 32))
    assert train.labels.shape == (6, 24, 32)


def test_a_run_that_predicts_no_numbers_is_named(folder: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(folder)
    next(value for name, value in checkpoint.model.items() if "heads.semantic" in name)[:] = 3e38
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    with pytest.raises(ValueError, match=r"run must predict finite numbers, but does not in .* for val_00000"):
        predict_run(tmp_path)


def test_the_noise_is_the_networks_and_not_the_labels(labels: Tensor, generator: torch.Generator) -> None:
    """It is about the same where every image's labels are displaced by 8 px, and larger where predictions are worse."""
    net = iff.InverseTransformNet.compact().requires_grad_(False)
    a = F.normalize(torch.randn(len(labels), 8, generator=generator)) * 8 / 112
    labels = labels[..., :240].contiguous()
    size = (240, 240)
    displaced = iff.functional.homography_warp(
        labels[:, None], homography.exp(a), size, mode="nearest", padding="border"
    )[:, 0]
    maps = perfect(labels).maps
    damaged = (degrade(maps[:, :1] / 255, generator) * 255).to(torch.uint8)
    noises = [
        estimate_noise(net, Predictions(predicted, given), count=12) * 112
        for predicted, given in ((maps, labels), (maps, displaced), (damaged, labels))
    ]
    assert 0 < noises[0] < noises[2]
    assert noises[1] < 3
    with pytest.raises(ValueError, match="labels must show boundaries between two classes"):
        estimate_noise(net, perfect(torch.ones(2, 240, 240, dtype=torch.uint8)), count=2)


def test_a_training_resumes_with_predictions_only_if_it_began_with_them(labels: Tensor, tmp_path: Path) -> None:
    config = NetConfig(tile=32, steps=1, batch_size=2, max_pixels=4.0)
    train_net(labels, config, tmp_path, predictions=[perfect(labels)], console=quiet())
    assert training_history(tmp_path / "align.safetensors")[0]["predicted_share"] == config.predicted_share
    with pytest.raises(ValueError, match=r"predicted_share was 0\.66.*, now 0\.0"):
        train_net(labels, config, tmp_path, resume=True, console=quiet())


def test_a_share_of_the_pairs_are_predictions(labels: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Pairs] = []
    real = training._distances

    def note(net: iff.InverseTransformNet, pairs: Pairs, kind: str) -> tuple[Tensor, Tensor, Tensor]:
        seen.append(pairs)
        return real(net, pairs, kind)

    monkeypatch.setattr(training, "_distances", note)
    gray = Predictions(torch.full((12, 1, 240, 320), 51, dtype=torch.uint8), torch.where(labels == 255, 0, labels))
    for share in (0.0, 0.75, 1.0):
        config = NetConfig(tile=32, steps=1, batch_size=4, max_pixels=4.0, damage_every=0, predicted_share=share)
        train_net(labels, config, tmp_path / str(share), predictions=[gray], console=quiet())
    gray_tiles = [((pairs.predicted - 0.2).abs() < 1e-6).flatten(1).all(1).sum().item() for pairs in seen]
    assert gray_tiles == [0, 3, 4]
    with pytest.raises(ValueError, match=r"predicted_share must be from 0 to 1, got 1\.5"):
        NetConfig(predicted_share=1.5)


def test_tuning_writes_a_network_with_its_noise_and_resumes_exactly(
    folder: Path, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(TINY, net=net)
    whole = tune_net(folder, config, tmp_path / "whole.safetensors", console=quiet())
    assert whole.noise
    assert iff.InverseTransformNet.from_file(tmp_path / "whole.safetensors").noise == whole.noise
    card = (tmp_path / "whole.md").read_text()
    assert all(f"| {kind} |" in card for kind in KINDS)
    assert f"{whole.noise * 16:.1f} px" in card
    assert (tmp_path / "whole.png").stat().st_size > 1000

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "estimate_noise", killed)
        with pytest.raises(KeyboardInterrupt):
            tune_net(folder, config, tmp_path / "cut.safetensors", console=quiet())
    with pytest.raises(FileExistsError, match="holds a training: resume it"):
        tune_net(folder, config, tmp_path / "cut.safetensors", console=quiet())
    resumed = tune_net(folder, config, tmp_path / "cut.safetensors", resume=True, console=quiet())
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())
    assert resumed.noise == whole.noise


def test_tuning_never_writes_over_a_file(folder: Path, net: str, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run")
    out = beside(tmp_path / "run" / "last.pt")
    assert out == beside(tmp_path / "run") == tmp_path / "run" / "tuned.safetensors"
    out.write_text("mine")
    with pytest.raises(FileExistsError, match="out must be a new file, but"):
        tune_net(tmp_path / "run", TINY, out, console=quiet())
    assert out.read_text() == "mine"
    (tmp_path / "card.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out must be a new file, but .*card\.md exists"):
        tune_net(tmp_path / "run", TINY, tmp_path / "card.safetensors", console=quiet())
    with pytest.raises(ValueError, match=r"out must be a file \.safetensors, got"):
        tune_net(tmp_path / "run", TINY, tmp_path / "new", console=quiet())
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        tune_net(tmp_path / "nowhere", TINY, tmp_path / "new.safetensors", console=quiet())
    with pytest.raises(ValueError, match="must have at least two images, to tune on and to measure, got 1"):
        tune_net(folder, dataclasses.replace(TINY, net=net, images=1), tmp_path / "new.safetensors", console=quiet())
    assert not list(tmp_path.glob("new*"))


def test_bad_options_of_tuning_are_named() -> None:
    for options, message in (
        ({"images": 0}, "images must be positive, got 0"),
        ({"seed": -1}, "seed must be from 0 to 9223372036854775807, got -1"),
        ({"size": (0, 9)}, r"size must be two positive numbers, got \(0, 9\)"),
    ):
        with pytest.raises(ValueError, match=message):
            TuneConfig(**options)
