"""Training pairs, training and measuring the inverse-transformation network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

import inverseform_fast as iff
from inverseform_fast import homography
from inverseform_fast.inverse_net.curves import displacement_curves
from inverseform_fast.inverse_net.evaluation import evaluate
from inverseform_fast.inverse_net.pairs import make_pairs
from inverseform_fast.inverse_net.training import STATE, NetConfig, train_net, training_history
from inverseform_fast.nets import Compact
from inverseform_fast.segmentation.datasets.scenes import label_maps as scene_labels

TINY = NetConfig(tile=32, steps=6, batch_size=4, max_pixels=4.0)


@pytest.fixture(scope="module")
def label_maps() -> Tensor:
    return scene_labels(24, 280, 320, torch.Generator().manual_seed(7))


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


def test_training_learns_and_resumes_exactly(label_maps: Tensor, tmp_path: Path) -> None:
    whole = train_net(label_maps, TINY, tmp_path / "whole", console=quiet())

    class Killed(Exception):
        pass

    def die(step: int) -> None:
        if step == 4:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        from inverseform_fast.inverse_net import training

        real = training._step
        patch.setattr(training, "_step", lambda *args: (die(args[-1]), real(*args))[1])
        with pytest.raises(Killed):
            train_net(label_maps, TINY, tmp_path / "killed", save_every=3, console=quiet())
    resumed = train_net(label_maps, TINY, tmp_path / "killed", resume=True, console=quiet())
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    torch.manual_seed(TINY.seed)
    untrained = Compact(tile=32).state_dict()
    assert any(not torch.equal(value, untrained[name]) for name, value in whole.state_dict().items())
    loaded = iff.InverseTransformNet.from_file(tmp_path / "whole" / "compact.safetensors")
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_training_goes_on_from_weights_and_remembers_how_they_were_made(label_maps: Tensor, tmp_path: Path) -> None:
    train_net(label_maps, TINY, tmp_path / "first", console=quiet())
    init = str(tmp_path / "first" / "compact.safetensors")
    barely = dataclasses.replace(TINY, init=init, lr=1e-12, weight_decay=0.0)
    second = train_net(label_maps, barely, tmp_path / "second", console=quiet())
    for name, value in iff.InverseTransformNet.from_file(init).state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value)
    stages = training_history(tmp_path / "second" / "compact.safetensors")
    assert [stage["lr"] for stage in stages] == [TINY.lr, 1e-12]
    assert not any(str(tmp_path) in str(stage) for stage in stages)
    with pytest.raises(ValueError, match="init must hold a compact network of tile 64, got compact of tile 32"):
        train_net(label_maps, dataclasses.replace(barely, tile=64), tmp_path / "third", console=quiet())


def test_a_training_is_never_overwritten_nor_resumed_as_another(label_maps: Tensor, tmp_path: Path) -> None:
    train_net(label_maps, TINY, tmp_path, console=quiet())
    with pytest.raises(FileExistsError, match="holds a training: resume it"):
        train_net(label_maps, TINY, tmp_path, console=quiet())
    with pytest.raises(ValueError, match="must keep its configuration"):
        train_net(label_maps, NetConfig(tile=32, steps=7), tmp_path, resume=True, console=quiet())
    (tmp_path / STATE).write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match="must be a complete training state"):
        train_net(label_maps, TINY, tmp_path, resume=True, console=quiet())
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train_net(label_maps, TINY, tmp_path / "elsewhere", resume=True, console=quiet())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "vgg"}, "architecture must be one of compact, got 'vgg'"),
        ({"distance": "l2"}, "distance must be one of"),
        ({"steps": 0}, "steps must be positive, got 0"),
    ],
)
def test_bad_configuration(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetConfig(**options)


def test_evaluation_of_networks_whose_score_is_known(label_maps: Tensor) -> None:
    class Identity(Compact):
        def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
            return torch.zeros(len(predicted), 8)

    scores = evaluate(Identity(tile=64), label_maps, count=64)
    assert scores["relative_corner_error"] == pytest.approx(1)
    assert 5 < scores["identity_corner_error"] < 9


def test_shipped_network_reads_displacements(label_maps: Tensor) -> None:
    scores = evaluate(iff.InverseTransformNet.compact(), label_maps, count=192)
    assert scores["relative_corner_error"] < 0.48
    assert scores["spearman"] > 0.88


@pytest.mark.parametrize("kind", ["shift", "turn", "scale"])
def test_loss_grows_with_displacement_and_its_gradient_points_home(label_maps: Tensor, kind: str) -> None:
    curves = displacement_curves(iff.InverseTransformNet.compact(), label_maps, kind, count=32)
    amount, value = curves["amount"], curves["inverseform"].mean(1)
    home = amount.sign()[:, None] * curves["inverseform_slope"]
    zero = int((amount == 0).nonzero())
    for half in (slice(zero, None), slice(zero, None, -1)):
        order = value[zero:] if half.step is None else value[: zero + 1].flip(0)
        within = amount[zero:].abs() if half.step is None else amount[: zero + 1].flip(0).abs()
        growing = order[within <= 12]
        assert (growing.diff() > 0).all(), f"{kind}: {growing.tolist()}"
    displaced = (amount.abs() >= 1) & (amount.abs() <= 12)
    assert (home[displaced].mean(1) > 0).all()
    assert (home[displaced] > 0).float().mean() > 0.85


def test_value_reads_as_pixels(label_maps: Tensor) -> None:
    curves = displacement_curves(iff.InverseTransformNet.compact(), label_maps, "shift", count=32)
    far = curves["amount"].abs().eq(8)
    assert 4 < curves["inverseform"][far].mean() < 12
