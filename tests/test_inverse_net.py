"""The inverse-transformation network gets right training pairs, trains and resumes, and is measured right."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import inverseform_fast as iff
from inverseform_fast import homography
from inverseform_fast.inverse_net import evaluation, training
from inverseform_fast.inverse_net.calibration import calibrate
from inverseform_fast.inverse_net.card import accuracy_table, card, curve_table, nothing_table, predictions_table
from inverseform_fast.inverse_net.config import NetConfig
from inverseform_fast.inverse_net.curves import MOTIONS, displacement_curves
from inverseform_fast.inverse_net.evaluation import aperture_bound, degrade, evaluate, says_nothing, true_tiles
from inverseform_fast.inverse_net.label_maps import collect_label_maps
from inverseform_fast.inverse_net.pairs import Pairs, both_orders, make_pairs
from inverseform_fast.inverse_net.pictures import draw_pairs
from inverseform_fast.inverse_net.state import STATE
from inverseform_fast.inverse_net.training import PICTURE, learning_rate, train_net, training_history
from inverseform_fast.nets import ARCHITECTURES, Align, Dense
from inverseform_fast.scenes import street

TINY = NetConfig(tile=32, steps=6, batch_size=4, max_pixels=4.0)


@pytest.fixture(scope="module")
def label_maps() -> Tensor:
    return street.label_maps(24, 280, 320, torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def trained(label_maps: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training by TINY, which no test may change."""
    folder = tmp_path_factory.mktemp("trained")
    train_net(label_maps, TINY, folder, console=quiet())
    return folder


def quiet() -> Console:
    return Console(quiet=True)


def test_predicted_is_the_target_moved_by_theta(label_maps: Tensor, generator: torch.Generator) -> None:
    pairs = make_pairs(label_maps, 24, 224, 0.15, generator, damage_every=0)
    moved = iff.functional.homography_warp(pairs.target, homography.exp(pairs.a), padding="border")
    # Compared inside, where both sides see the same labels, and up to the rounding of lines two pixels thick.
    inside = (..., slice(40, -40), slice(40, -40))
    agreement = ((moved > 0.5) == (pairs.predicted > 0.5))[inside].float().mean()
    unmoved = ((pairs.target > 0.5) == (pairs.predicted > 0.5))[inside].float().mean()
    assert agreement > 0.985
    assert 1 - agreement < 0.35 * (1 - unmoved)


def test_pairs_repeat_by_generator_and_reach_the_asked_displacement(label_maps: Tensor) -> None:
    first, second = (make_pairs(label_maps, 64, 64, 0.2, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    length = first.a.norm(dim=1)
    assert length.max() <= 0.2 + 1e-6
    assert length.max() > 0.17
    assert first.predicted.shape == first.target.shape == (64, 1, 64, 64)
    assert first.predicted.min() >= 0
    assert first.predicted.max() <= 1
    assert set(first.target.unique().tolist()) <= {0.0, 1.0}


def test_degradation_touches_the_predicted_side_only(label_maps: Tensor) -> None:
    clean, damaged = (
        make_pairs(label_maps, 32, 64, 1e-6, torch.Generator().manual_seed(5), damage_every=every) for every in (0, 1)
    )
    thickness = damaged.target.flatten(1).sum(1) / clean.target.flatten(1).sum(1).clamp(min=1)
    assert (thickness == 1).float().mean() > 0.5  # some targets are drawn thinner or thicker
    soft = (damaged.predicted > 0.05) & (damaged.predicted < 0.95)
    assert soft.flatten(1).any(1).float().mean() > 0.8
    assert not ((clean.predicted > 0) & (clean.predicted < 1)).any()


def test_pairs_in_both_orders(label_maps: Tensor, generator: torch.Generator) -> None:
    pairs = make_pairs(label_maps, 8, 96, 0.2, generator, damage_every=0)
    both = both_orders(pairs)
    assert torch.equal(both.predicted[:8], pairs.predicted)
    assert torch.equal(both.predicted[8:], pairs.target)

    def overlap(a: Tensor) -> Tensor:
        """Returns the share of the predicted boundary, away from the edge, on which the moved target lies."""
        moved = iff.functional.homography_warp(both.target, homography.exp(a), padding="border")
        line, found = ((maps > 0.5)[..., 20:-20, 20:-20].unflatten(0, (2, 8)) for maps in (both.predicted, moved))
        return (line & found).flatten(1).sum(1) / line.flatten(1).sum(1)

    assert overlap(both.a).min() > 0.8
    assert overlap(-both.a).max() < 0.7


def test_what_a_network_is_trained_on(label_maps: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs are undamaged if asked for, and in both orders for a network that is not antisymmetric."""
    seen: list[tuple[Tensor, Tensor]] = []
    real = training._distances

    def note(net: iff.InverseTransformNet, pairs: Pairs, kind: str) -> tuple[Tensor, Tensor, Tensor]:
        seen.append((pairs.predicted, pairs.target))
        return real(net, pairs, kind)

    monkeypatch.setattr(training, "_distances", note)
    for kind in (Align, Dense):
        config = dataclasses.replace(TINY, architecture=kind.architecture, steps=1, lr=1e-4, damage_every=0)
        train_net(label_maps, config, tmp_path / kind.architecture, console=quiet())
    (align, _), (dense, dense_target) = seen
    assert len(align) == TINY.batch_size
    assert torch.equal(dense, torch.cat((dense_target[4:], dense_target[:4])))
    assert set(dense.unique().tolist()) == {0.0, 1.0}


def test_training_learns_and_resumes_exactly(label_maps: Tensor, trained: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    real = training._distances
    steps = []

    def die_in_the_fifth_step(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        steps.append(1)
        if len(steps) == 5:
            raise Killed
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_distances", die_in_the_fifth_step)
        with pytest.raises(Killed):
            train_net(label_maps, TINY, tmp_path, save_every=3, console=quiet())
    resumed = train_net(label_maps, TINY, tmp_path, resume=True, console=quiet())
    whole = iff.InverseTransformNet.from_file(trained / "align.safetensors").state_dict()
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole[name]), name
    loaded = iff.InverseTransformNet.from_file(tmp_path / "align.safetensors")
    assert all(torch.equal(value, whole[name]) for name, value in loaded.state_dict().items())
    torch.manual_seed(TINY.seed)
    untrained = Align(tile=32).state_dict()
    assert any(not torch.equal(value, untrained[name]) for name, value in whole.items())


def test_training_logs_and_draws_what_the_network_makes_of_pairs(trained: Path) -> None:
    events = EventAccumulator(str(trained / "tensorboard")).Reload()
    (error,) = events.Scalars("train/relative_error")
    assert error.step == TINY.steps
    assert 0 < error.value < 2
    assert events.Scalars("train/lr")[0].value < TINY.lr
    assert events.Scalars("train/pairs_per_second")[0].value > 0
    assert events.Images("pairs")[0].step == TINY.steps
    with Image.open(trained / PICTURE) as picture:
        assert picture.width > 1000


def test_the_picture_lays_the_moved_target_on_the_prediction(
    label_maps: Tensor, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = make_pairs(label_maps, 6, 96, 0.2, generator, damage_every=0)
    net = Align(tile=96)
    monkeypatch.setattr(net, "algebra", lambda predicted, target: pairs.a)
    axes = draw_pairs(net, pairs).axes
    black = [(np.asarray(axis.images[0].get_array()) < 0.3).all(-1).sum() for axis in axes]
    apart, together = sum(black[:6]), sum(black[6:])
    assert together > 1.2 * apart > 0
    expected = homography.corner_displacement(homography.exp(pairs.a)) * 48
    assert [axis.get_title() for axis in axes] == [f"{pixels:.1f} px apart" for pixels in [*expected, *[0.0] * 6]]


def test_training_goes_on_from_weights_and_remembers_how_they_were_made(
    label_maps: Tensor, trained: Path, tmp_path: Path
) -> None:
    init = str(trained / "align.safetensors")
    barely = dataclasses.replace(TINY, init=init, lr=1e-12, weight_decay=0.0, steps=2)
    second = train_net(label_maps, barely, tmp_path / "second", console=quiet())
    for name, value in iff.InverseTransformNet.from_file(init).state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value)
    stages = training_history(tmp_path / "second" / "align.safetensors")
    assert [stage["lr"] for stage in stages] == [TINY.lr, 1e-12]
    assert not any(str(trained) in str(stage) for stage in stages)
    with pytest.raises(ValueError, match="init must hold a network align of tile 64, got align of tile 32"):
        train_net(label_maps, dataclasses.replace(barely, tile=64), tmp_path / "third", console=quiet())


def test_a_training_is_never_overwritten_nor_resumed_as_another(
    label_maps: Tensor, trained: Path, tmp_path: Path
) -> None:
    shutil.copy(trained / STATE, tmp_path)
    with pytest.raises(FileExistsError, match="holds a training: resume it"):
        train_net(label_maps, TINY, tmp_path, console=quiet())
    with pytest.raises(ValueError, match=r"must keep its configuration: steps was 6, now 7; lr was 0\.002, now 0\.1$"):
        train_net(label_maps, dataclasses.replace(TINY, steps=7, lr=0.1), tmp_path, resume=True, console=quiet())
    for damaged in (b"PK damaged", b"hello"):
        (tmp_path / STATE).write_bytes(damaged)
        with pytest.raises(ValueError, match="must be a complete training state"):
            train_net(label_maps, TINY, tmp_path, resume=True, console=quiet())
    torch.save({"state_dict": {}}, tmp_path / STATE)
    with pytest.raises(ValueError, match="must be a training state of inverseform-fast train-net"):
        train_net(label_maps, TINY, tmp_path, resume=True, console=quiet())
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train_net(label_maps, TINY, tmp_path / "elsewhere", resume=True, console=quiet())
    assert not (tmp_path / "elsewhere").exists()


def test_label_maps_of_one_class_and_smaller_than_a_tile(label_maps: Tensor, tmp_path: Path) -> None:
    one = torch.full((2, 48, 64), 3, dtype=torch.uint8)
    one[:, :8] = 255
    with pytest.raises(ValueError, match=r"label_maps must hold at least two classes, got \[3\]"):
        train_net(one, TINY, tmp_path / "one", console=quiet())
    assert not (tmp_path / "one").exists()
    small = label_maps[:4, ::8, ::8].contiguous()  # 35 x 40
    net = train_net(small, dataclasses.replace(TINY, tile=64, steps=1), tmp_path / "small", console=quiet())
    assert evaluate(net, small, count=16, batch=16)["pairs"] > 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "vgg"}, f"architecture must be one of {', '.join(ARCHITECTURES)}, got 'vgg'"),
        ({"distance": "l2"}, "distance must be one of"),
        ({"steps": 0}, "steps must be positive, got 0"),
        ({"tile": 0}, "tile must be positive, got 0"),
        ({"damage_every": -1}, "damage_every must be at least 0, got -1"),
        ({"weight_decay": -0.1}, "weight_decay must be from 0 to 1000000.0, got -0.1"),
    ],
)
def test_a_bad_option_is_an_error_that_names_it(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetConfig(**options)


def test_learning_rate_warms_up_and_decays_to_zero() -> None:
    config = NetConfig(steps=1000, lr=1.0)
    rates = [learning_rate(config, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert 0.97 < rates[99] == max(rates) < 1
    assert rates[500] == pytest.approx(0.5)
    assert rates[999] == pytest.approx(0, abs=1e-5)


def test_label_maps_are_made_by_the_seed() -> None:
    def collect(scenes: int, shapes: int, seed: int = 0) -> Tensor:
        return collect_label_maps("scenes", "train", None, (20, 30), scenes, shapes, seed)

    both = collect(2, 3)
    assert both.shape == (5, 20, 30)
    assert torch.equal(both[:2], collect(2, 0))
    assert not torch.equal(both[:2], collect(2, 0, seed=1))
    for scenes, shapes in ((0, 0), (-1, 3)):
        with pytest.raises(ValueError, match=f"one of them positive, got {scenes}, {shapes}"):
            collect(scenes, shapes)
    with pytest.raises(ValueError, match=r"size must be a positive \(height, width\), got \(0, 9\)"):
        collect_label_maps("scenes", "train", None, (0, 9), 1, 1, 0)


class Identity(Align):
    def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
        return torch.zeros(len(predicted), 8)


def test_evaluation_of_predicting_no_displacement(label_maps: Tensor) -> None:
    crisp, degraded = (evaluate(Identity(tile=64), label_maps, count=64, degraded=flag) for flag in (False, True))
    assert crisp["relative_corner_error"] == pytest.approx(1)
    assert 5 < crisp["identity_corner_error"] < 9
    assert degraded["identity_corner_error"] == crisp["identity_corner_error"]  # the same pairs


def test_a_perfect_network_tops_every_measure_but_the_rank_of_corners(
    label_maps: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = []

    def remember(*args: Any, **options: Any) -> Pairs:
        pairs = make_pairs(*args, **options)
        truth.append(pairs.a[(pairs.target > 0).flatten(1).any(1)])
        return pairs

    class Perfect(Align):
        def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
            return truth[-1]

    monkeypatch.setattr(evaluation, "make_pairs", remember)
    scores = evaluate(Perfect(tile=32), label_maps, count=768, batch=256, max_pixels=16 * 32 / 224)
    assert scores["relative_corner_error"] == pytest.approx(0, abs=1e-6)
    assert scores["spearman"] == pytest.approx(1)
    assert scores["spearman_corners"] == pytest.approx(0.97, abs=0.01)


def test_degraded_lines_are_broken_wide_faint_and_noisy(generator: torch.Generator) -> None:
    tiles = torch.zeros(64, 1, 224, 224)
    tiles[..., 110:114] = 1
    mean = degrade(tiles, generator).mean(0)[0, 20:-20].mean(0)
    line = mean - mean[:80].mean()
    assert mean.max() == pytest.approx(0.8 * 0.5 * 0.75, rel=0.06)
    assert (line > 0.4 * line.max()).sum() == 6  # half the height is between the fifth pixel and the sixth
    rows = degrade(tiles, generator)[..., 111:113].mean(3)[:, 0, 20:-20]
    assert (rows < 0.18).float().mean() == pytest.approx(0.2, abs=0.05)
    noise = degrade(torch.zeros(1, 1, 64, 64), generator)
    assert noise.std() == pytest.approx(0.1 * 0.584, rel=0.05)  # a Gaussian, cut at 0
    assert torch.equal(*(degrade(tiles[:2], torch.Generator().manual_seed(1)) for _ in range(2)))


def test_the_bound_is_the_prior_without_a_measurement_and_falls_with_directions() -> None:
    tile, max_pixels = 96, 12.0
    one = torch.zeros(1, 1, tile, tile)
    one[..., 46:50] = 1
    crossed = torch.maximum(one, one.mT)
    grid = torch.zeros_like(one)
    grid[..., 10:14] = grid[..., 82:86] = grid[..., 10:14, :] = grid[..., 82:86, :] = 1
    a = torch.randn(20000, 8, generator=torch.Generator().manual_seed(0)) * max_pixels / (tile / 2) / 24**0.5
    prior = homography.corner_displacement(homography.exp(a)).mean() * tile / 2
    blind = aperture_bound(one, max_pixels, noise=1e6)["corner_error"]
    assert blind == pytest.approx(prior.item(), rel=0.03)
    errors = [aperture_bound(tiles, max_pixels)["corner_error"] for tiles in (one, crossed, grid)]
    assert blind > errors[0] > errors[1] > errors[2] > 0
    assert errors[0] > 0.5 * blind > errors[2]
    both = aperture_bound(torch.cat((one, grid)), max_pixels)
    assert both["corner_error"] == pytest.approx((errors[0] + errors[2]) / 2)
    assert both["relative_corner_error"] < 1


def test_predictions_that_say_nothing_are_compared_with_a_real_displacement(label_maps: Tensor) -> None:
    scores = says_nothing(iff.InverseTransformNet.compact(), label_maps, count=4)
    real, *rest = scores.values()
    assert real["gradient"] == 1
    assert 4 < real["median"] < 12
    assert list(scores)[-1] == "noise"
    assert all(s["median"] <= s["p95"] and s["gradient"] > 0 for s in rest)


def test_label_maps_without_a_boundary_are_refused() -> None:
    for measure in (lambda maps: evaluate(Identity(tile=64), maps, count=64), lambda maps: true_tiles(maps, 64, 8)):
        with pytest.raises(ValueError, match="label_maps must show boundaries between two classes"):
            measure(torch.ones(2, 80, 80, dtype=torch.uint8))


def test_card_has_a_row_per_data_set(label_maps: Tensor) -> None:
    net = Align(tile=32).requires_grad_(False)
    curves = {kind: displacement_curves(net, label_maps, kind, count=4) for kind in MOTIONS}
    tables = "\n\n".join(curve_table(kind, curve) for kind, curve in curves.items())
    accuracy = accuracy_table(net, {"streets": label_maps, "cells": label_maps}, 16)
    reading = {"model": "SegFormer", "kind": "soft", "read": 2.5, "left": 3.0, "better": 0.875}
    predictions = predictions_table({"nets": {"compact": {"rows": [reading]}}})
    stages = [dataclasses.asdict(TINY), {**dataclasses.asdict(TINY), "max_pixels": 9.0}]
    calibration = calibrate(net, list(label_maps), views=4)
    text = card(net, stages, "it", accuracy, predictions, nothing_table(net, label_maps, 4), tables, 4, calibration)
    heading, _, *rows = text[text.index("| boundaries |") :].split("\n\n")[0].splitlines()
    assert [row.split(" | ")[0] for row in rows] == [
        "| streets",
        "| cells",
        "| streets, views turned, flipped and zoomed",
    ]
    assert {row.count("|") for row in rows} == {heading.count("|")}
    assert "| SegFormer | soft | 2.5 | 3.0 | 88% |" in text
    assert "nan" not in text
    assert "Displacements beyond 9 px were never seen" in text
    assert {f"| {kind}, {unit} |" for kind, (unit, _) in MOTIONS.items()} <= {
        line[: line.find("|", 1) + 1] for line in text.splitlines()
    }


def test_shipped_network_reads_displacements(label_maps: Tensor) -> None:
    scores = evaluate(iff.InverseTransformNet.compact(), label_maps, count=128)
    assert scores["relative_corner_error"] < 0.25
    assert scores["spearman"] > 0.95


@pytest.mark.parametrize("kind", ["shift", "turn", "scale"])
def test_loss_reads_as_displacement_and_its_gradient_points_home(label_maps: Tensor, kind: str) -> None:
    curves = displacement_curves(iff.InverseTransformNet.compact(), label_maps, kind, count=10)
    amount, value = curves["amount"], curves["inverseform"].mean(1)
    home = amount.sign()[:, None] * curves["inverseform_slope"]
    for sign in (1, -1):
        side = (sign * amount >= 0) & (amount.abs() <= 12)
        growing = value[side][amount[side].abs().argsort()]
        assert (growing.diff() > 0).all(), f"{kind}: {growing.tolist()}"
    displaced = (amount.abs() >= 1) & (amount.abs() <= 12)
    assert (home[displaced].mean(1) > 0).all()
    assert (home[displaced] > 0).float().mean() > 0.85
    if kind == "shift":  # the value reads as pixels
        assert 7 < value[amount.abs() == 8].mean() < 9
