"""A spatial transformer trains from label maps, and makes training pairs for networks."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from torch import Tensor, nn

import inverseform_fast as iff
from inverseform_fast import SpatialTransformer, cli, homography
from inverseform_fast.inverse_net.config import NetConfig, StnConfig
from inverseform_fast.inverse_net.pairs import Pairs, make_pairs
from inverseform_fast.inverse_net.state import STATE
from inverseform_fast.inverse_net.stn import WEIGHTS, evaluate_stn, sample_views, train_stn
from inverseform_fast.inverse_net.training import _transforms, train_net, training_history
from inverseform_fast.scenes import street

TINY = StnConfig(tile=32, max_pixels=4.0, steps=4, batch_size=4)
NET = NetConfig(tile=32, steps=2, batch_size=4, max_pixels=4.0)


@pytest.fixture(scope="module")
def label_maps() -> Tensor:
    return street.label_maps(8, 90, 120, torch.Generator().manual_seed(7))


@pytest.fixture
def stn(tmp_path: Path) -> str:
    """The file of a transformer that moves tiles by about 0.2 half tiles."""
    torch.manual_seed(0)
    transformer = SpatialTransformer(1)
    with torch.no_grad():
        for parameter in transformer.localisation[-1].parameters():
            parameter.normal_()
    path = tmp_path / "made.safetensors"
    transformer.save(path)
    return str(path)


def quiet() -> Console:
    return Console(quiet=True)


def test_training_repeats_and_tells_what_it_learned(label_maps: Tensor, tmp_path: Path) -> None:
    printed = io.StringIO()
    first = train_stn(label_maps, TINY, tmp_path / "first", console=Console(file=printed, width=1000))
    second = train_stn(label_maps, TINY, tmp_path / "second", console=quiet())
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    loaded = SpatialTransformer.from_file(tmp_path / "first" / WEIGHTS)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in first.state_dict().items())
    assert (loaded.kind, loaded.max_displacement) == ("homography", 0.25)
    assert loaded.algebra(torch.rand(2, 1, 32, 32)).any()  # it has left the identity
    with safe_open(tmp_path / "first" / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    assert StnConfig(**json.loads(metadata["training"])) == TINY
    scores = json.loads(metadata["scores"])
    assert 0 < scores["median"] <= scores["p95"] <= TINY.max_pixels
    assert f"{scores['loss']:.3f} with the transformer" in printed.getvalue()


def test_the_transformer_is_never_overwritten(label_maps: Tensor, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(b"earlier")
    with pytest.raises(FileExistsError, match="holds a spatial transformer: choose another folder"):
        train_stn(torch.empty(0), TINY, tmp_path, console=quiet())  # said before the label maps are looked at
    assert (tmp_path / WEIGHTS).read_bytes() == b"earlier"


def test_a_training_that_diverges_stops_early_and_writes_nothing(
    label_maps: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[Tensor] = []

    def diverging(*_: object) -> Tensor:
        losses.append(torch.tensor(math.nan, requires_grad=True))
        return losses[-1]

    monkeypatch.setattr("inverseform_fast.inverse_net.stn._loss", diverging)
    with pytest.raises(FloatingPointError, match=r"the loss became nan: train anew with a lower lr than "):
        train_stn(label_maps, TINY, tmp_path / "out", console=quiet())
    assert len(losses) == 1
    assert not (tmp_path / "out").exists()


def test_one_class_teaches_nothing(tmp_path: Path) -> None:
    maps = torch.full((2, 40, 40), 3, dtype=torch.uint8)
    maps[:, :10] = 255
    with pytest.raises(ValueError, match=r"label_maps must hold at least two classes, got \[3\]"):
        train_stn(maps, TINY, tmp_path / "out", console=quiet())
    assert not (tmp_path / "out").exists()


def test_views_say_which_classes_are_in_each_cell(g: torch.Generator) -> None:
    maps = torch.full((1, 64, 64), 2, dtype=torch.uint8)
    maps[:, :16, :16] = 7
    maps[:, 20:30, 40:60] = 255
    views = sample_views(maps, torch.tensor([2, 7, 9]), dataclasses.replace(TINY, tile=64), g)
    assert views.displaced.shape == views.still.shape == (4, 1, 64, 64)
    present = views.present.view(4, 4, 4, 3)
    assert present[..., 0].sum() == 4 * 15  # all cells but the first
    assert (present[:, 0, 0] == torch.tensor([0, 1, 0])).all()
    assert present[..., 1].sum() == 4
    assert present[..., 2].sum() == 0
    assert ((views.displaced != views.still).flatten(1).any(1)).sum() >= 3


def test_maps_smaller_than_a_tile_fill_the_view(g: torch.Generator) -> None:
    maps = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).repeat_interleave(10, 0).repeat_interleave(10, 1)[None]
    views = sample_views(maps, torch.arange(1, 5), TINY, g)
    assert (views.present.view(4, 2, 2, 2, 2, 4).amax((2, 4)).flatten(1, 2) == torch.eye(4)).all()


def test_the_scores_of_the_identity_and_of_a_classifier_that_knows_the_shares(label_maps: Tensor) -> None:
    classes = label_maps.unique()
    many = dataclasses.replace(TINY, batch_size=400)
    shares = sample_views(label_maps, classes, many, torch.Generator().manual_seed(9)).present.mean(0)
    classifier = nn.Linear(32 * 32, shares.numel())
    nn.init.zeros_(classifier.weight)
    classifier.bias.data = shares.flatten().logit(eps=1e-3)
    model = nn.Sequential(nn.Flatten(), classifier)
    scores = evaluate_stn(SpatialTransformer(1, max_displacement=0.25), model, label_maps, classes, TINY)
    assert scores["loss"] == scores["loss_identity"] == scores["loss_still"]
    assert scores["loss"] == pytest.approx(scores["loss_shares"], rel=0.15)
    assert scores["median"] == scores["p95"] == scores["common"] == 0


def test_pairs_are_moved_by_the_transformer(label_maps: Tensor, stn: str, g: torch.Generator) -> None:
    transformer = SpatialTransformer.from_file(stn).requires_grad_(False)

    def pairs_within(max_displacement: float) -> Pairs:
        return make_pairs(
            label_maps,
            16,
            64,
            max_displacement,
            g,
            damage_every=0,
            transforms=lambda target, _: transformer.algebra(target),
        )

    pairs = pairs_within(0.25)
    assert torch.equal(pairs.a, transformer.algebra(pairs.target))
    assert pairs.a.norm(dim=1).min() > 0.05
    moved = iff.functional.homography_warp(pairs.target, homography.exp(pairs.a), padding="border")
    inside = (..., slice(16, -16), slice(16, -16))
    agreement, unmoved = (
        ((side > 0.5) == (pairs.predicted > 0.5))[inside].float().mean() for side in (moved, pairs.target)
    )
    assert 1 - agreement < 0.5 * (1 - unmoved)
    shorter = pairs_within(0.1)
    torch.testing.assert_close(shorter.a.norm(dim=1), torch.full((16,), 0.1))
    parallel = torch.cosine_similarity(shorter.a, transformer.algebra(shorter.target))
    torch.testing.assert_close(parallel, torch.ones(16))


@pytest.mark.parametrize("count", [1, 8, 33])
def test_half_of_a_mix_is_random_wherever_it_is(stn: str, count: int, g: torch.Generator) -> None:
    mix, alone = (_transforms(dataclasses.replace(NET, transforms=kind, stn=stn), "cpu") for kind in ("mix", "stn"))
    assert mix is not None
    assert alone is not None
    tiles = torch.rand(count, 1, 32, 32, generator=g)
    learned = torch.stack([(mix(tiles, g) == alone(tiles, g)).all(1) for _ in range(100)])
    assert (learned.sum(1) == count // 2).all()
    if count > 1:  # no place is always of one kind
        assert 0.25 < learned.float().mean(0).min() <= learned.float().mean(0).max() < 0.75


@pytest.fixture(scope="module")
def trained(label_maps: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training by NET, from random pairs, which no test may change."""
    folder = tmp_path_factory.mktemp("trained")
    train_net(label_maps, NET, folder, console=quiet())
    return folder


@pytest.mark.parametrize("kind", ["stn", "mix"])
def test_networks_train_on_the_pairs_of_a_transformer(
    label_maps: Tensor, trained: Path, tmp_path: Path, stn: str, kind: str
) -> None:
    config = dataclasses.replace(NET, transforms=kind, stn=stn)
    net = train_net(label_maps, config, tmp_path, console=quiet())
    random = iff.InverseTransformNet.from_file(trained / "align.safetensors").state_dict()
    assert any(not torch.equal(value, random[name]) for name, value in net.state_dict().items())
    (stage,) = training_history(tmp_path / "align.safetensors")
    assert stage["transforms"] == kind
    assert str(tmp_path) not in str(stage)


def test_a_state_from_before_there_were_transforms_resumes(
    label_maps: Tensor, trained: Path, tmp_path: Path, stn: str
) -> None:
    shutil.copy(trained / STATE, tmp_path)
    state = torch.load(tmp_path / STATE, weights_only=True)
    del state["config"]["transforms"], state["config"]["stn"]
    torch.save(state, tmp_path / STATE)
    train_net(label_maps, NET, tmp_path, resume=True, console=quiet())
    with pytest.raises(ValueError, match="must keep its configuration"):
        train_net(
            label_maps, dataclasses.replace(NET, transforms="stn", stn=stn), tmp_path, resume=True, console=quiet()
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transforms": "affine"}, "transforms must be random, stn or mix, got 'affine'"),
        ({"transforms": "mix"}, "stn must be a weight file for transforms mix, got None"),
        ({"stn": "a.safetensors"}, r"stn must be left out for transforms random, got 'a\.safetensors'"),
    ],
)
def test_transforms_and_their_file_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetConfig(**options)


def test_a_transformer_of_pictures_makes_no_pairs(label_maps: Tensor, tmp_path: Path) -> None:
    SpatialTransformer(3).save(tmp_path / "three.safetensors")
    config = dataclasses.replace(NET, transforms="stn", stn=str(tmp_path / "three.safetensors"))
    with pytest.raises(ValueError, match="stn must be a transformer of 1 channel, got 3 in"):
        train_net(label_maps, config, tmp_path / "net", console=quiet())
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"kind": "rigid"}, "kind must be one of affine, homography"), ({"steps": 0}, "steps must be positive, got 0")],
)
def test_a_bad_option_is_an_error_that_names_it(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StnConfig(**options)


def test_the_command_line_trains_a_transformer_and_a_network_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> object:
        monkeypatch.setattr(sys, "argv", ["inverseform-fast", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code

    tiny = ["--scenes", "3", "--size", "64", "80", "--tile", "32", "--steps", "2", "--batch-size", "2"]
    tiny += ["--max-pixels", "3", "--device", "cpu"]
    out = tmp_path / "stn"
    assert call("train-stn", *tiny, "--kind", "affine", "--out", str(out)) == 0
    assert "with the identity in its place" in " ".join(capsys.readouterr().out.split())
    assert SpatialTransformer.from_file(out / WEIGHTS).kind == "affine"
    assert "holds a spatial transformer" in str(call("train-stn", *tiny, "--out", str(out)))
    options = ["--transforms", "mix", "--stn", str(out / WEIGHTS), "--out", str(tmp_path / "net")]
    assert call("train-net", *tiny, "--shapes", "3", *options) == 0
    assert training_history(tmp_path / "net" / "align.safetensors")[0]["transforms"] == "mix"
