"""The state that train-net resumes from is its own, whole and finite, or an error names its file."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from inverseform_fast.inverse_net import training
from inverseform_fast.inverse_net.config import NetConfig
from inverseform_fast.inverse_net.state import STATE
from inverseform_fast.inverse_net.training import train_net
from inverseform_fast.scenes import street

TINY = NetConfig(tile=32, steps=6, batch_size=4, max_pixels=4.0)


def quiet() -> Console:
    return Console(quiet=True)


@pytest.fixture(autouse=True)
def without_pictures(no_pictures: None) -> None: ...


@pytest.fixture(scope="module")
def label_maps() -> Tensor:
    return street.label_maps(3, 64, 80, torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def trained(label_maps: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training by TINY, which no test may change."""
    folder = tmp_path_factory.mktemp("trained")
    train_net(label_maps, TINY, folder, console=quiet())
    return folder


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("optimizer"), "optimizer is missing"),
        (lambda s: s.update(more=1), "more is unknown"),
        (lambda s: s.update(step=7), "step must be a whole number from 0 to 6, got 7"),
        (lambda s: s["config"].pop("lr"), "lr is missing"),
        (lambda s: s["config"].update(lrr=1), "lrr is unknown"),
        (lambda s: s["config"].update(steps="6"), "steps must be a whole number, got '6'"),
        (lambda s: s.update(net=[]), "net must be a dict, got list"),
        (lambda s: s["net"].popitem(), "state: the tensors of .*last.pt must be those of Align: .* missing"),
        (lambda s: s["optimizer"]["state"][0].pop("step"), "the optimizer's state of .*last.pt.* step is missing"),
        (
            lambda s: next(iter(s["net"].values())).fill_(math.nan),
            r"must be a training state of finite numbers, but net\.",
        ),
    ],
)
def test_a_state_with_wrong_content_is_not_resumed_from(
    label_maps: Tensor, trained: Path, tmp_path: Path, damage: Any, message: str
) -> None:
    state = torch.load(trained / STATE, weights_only=True)
    damage(state)
    torch.save(state, tmp_path / STATE)
    with pytest.raises(ValueError, match=message) as raised:
        train_net(label_maps, TINY, tmp_path, resume=True, console=quiet())
    assert str(tmp_path / STATE) in str(raised.value)


def test_weights_that_are_not_finite_leave_the_last_good_state(label_maps: Tensor, tmp_path: Path) -> None:
    real, steps = training._distances, []

    def infinite_gradient(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        loss, distance, identity = real(*arguments)
        steps.append(1)
        if len(steps) == 4:
            loss = loss + (loss - loss.detach()).abs().sqrt()
        return loss, distance, identity

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_distances", infinite_gradient)
        with pytest.raises(FloatingPointError, match=r"but net\..* does not; stopped at step 4, .*holds step 3"):
            train_net(label_maps, TINY, tmp_path, save_every=1, console=quiet())
    assert torch.load(tmp_path / STATE, weights_only=True)["step"] == 3
    assert not (tmp_path / "align.safetensors").exists()


def test_a_training_that_diverges_stops_and_keeps_its_last_state(label_maps: Tensor, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, steps=4)
    loss = torch.zeros((), requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_distances", lambda *_: (loss, torch.tensor(math.nan), torch.ones(())))
        with pytest.raises(
            FloatingPointError, match=r"became nan by step 4 at an lr of 0\.002; .*: train anew with a lower lr"
        ):
            train_net(label_maps, config, tmp_path, console=quiet())
    assert not (tmp_path / STATE).exists()
