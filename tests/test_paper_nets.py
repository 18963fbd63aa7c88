"""The paper's networks train and save, and the weights that its authors released are read without running code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import leaf_grad
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

import inverseform_fast as iff
from inverseform_fast import homography
from inverseform_fast.cli.app import app
from inverseform_fast.inverse_net.config import NetConfig
from inverseform_fast.inverse_net.state import STATE
from inverseform_fast.inverse_net.training import train_net
from inverseform_fast.nets.paper import Aet, Dense
from inverseform_fast.scenes.street import label_maps as scene_labels

TILE = 20
Builder = Callable[[], Dense | Aet]
BUILDERS: list[Builder] = [lambda: Dense(TILE, 8), lambda: Dense(TILE, 6), lambda: Dense(TILE, 4), lambda: Aet(TILE)]


def maps(count: int, generator: torch.Generator, tile: int = TILE) -> Tensor:
    return (torch.rand(count, 1, tile, tile, generator=generator) < 0.1).float()


def last_layer(net: torch.nn.Module) -> torch.nn.Linear:
    assert isinstance(net, Dense | Aet)
    assert isinstance(net.fc[-1], torch.nn.Linear)
    return net.fc[-1]


def shaken(net: Dense | Aet, generator: torch.Generator) -> Dense | Aet:
    """Returns the network with a random last layer, because the untrained one is zero."""
    torch.nn.init.normal_(last_layer(net).weight, std=0.05, generator=generator)
    return net.eval()


def release_weights(generator: torch.Generator) -> dict[str, Tensor]:
    """Makes tensors of the release's shapes; row i of the largest is one noise shifted by i, so its file is small."""
    noise = torch.randn(100352 + 999, generator=generator) / 100
    return {
        "fc.0.weight": noise.as_strided((1000, 100352), (1, 1)),
        "fc.0.bias": torch.randn(1000, generator=generator),
        "fc.2.weight": torch.randn(32, 1000, generator=generator) / 20,
        "fc.2.bias": torch.randn(32, generator=generator),
        "fc.4.weight": torch.randn(4, 32, generator=generator) / 20,
        "fc.4.bias": torch.randn(4, generator=generator),
    }


@pytest.mark.parametrize("build", BUILDERS)
def test_an_untrained_network_answers_the_identity_and_can_learn(build: Builder, generator: torch.Generator) -> None:
    net = build()
    x, y = maps(3, generator), maps(3, generator)
    assert torch.equal(net(x, y), torch.eye(3).expand(3, 3, 3))
    assert net.algebra(x[:0], y[:0]).shape == (0, 8)
    shaken(net, generator).algebra(x.requires_grad_(), y).norm(dim=1).sum().backward()
    assert (leaf_grad(x).flatten(1).norm(dim=1) > 0).all()
    assert all(leaf_grad(p).norm() > 0 for p in net.parameters())


@pytest.mark.parametrize("build", BUILDERS)
def test_saved_weights_load_to_the_same_network(build: Builder, generator: torch.Generator, tmp_path: Path) -> None:
    net = shaken(build(), generator)
    net.save(tmp_path / "net.safetensors")
    loaded = iff.InverseTransformNet.from_file(tmp_path / "net.safetensors")
    assert type(loaded) is type(net)
    x, y = maps(3, generator), maps(3, generator)
    assert torch.equal(loaded(x, y), net(x, y))
    assert iff.InverseFormLoss(net=loaded)(maps(2, generator, 30), maps(2, generator, 50)) > 0


@pytest.mark.parametrize(
    ("outputs", "matrix"),
    [
        (6, [[0.05, -0.1, 0.2], [0.15, -0.2, -0.1], [0, 0, 0]]),
        (4, [[0.05, 0, 0.2], [0, -0.2, -0.1], [0, 0, 0]]),
    ],
)
def test_outputs_are_entries_of_the_logarithm_in_half_tiles(outputs: int, matrix: list[list[float]]) -> None:
    net = Dense(TILE, outputs)
    rows = torch.tensor(matrix)
    values = rows[:2].flatten() if outputs == 6 else torch.stack((rows[0, 2], rows[1, 2], rows[0, 0], rows[1, 1]))
    with torch.no_grad():
        last_layer(net).bias.copy_(values)
    x = torch.zeros(1, 1, TILE, TILE)
    theta = net(x, x)[0]
    torch.testing.assert_close(theta / theta[2, 2], torch.linalg.matrix_exp(rows))
    torch.testing.assert_close(net.algebra(x, x)[0], homography.log(theta))
    torch.testing.assert_close(net.algebra(x, x)[0].norm(), values.norm())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: iff.InverseTransformNet.dense(outputs=5), "outputs must be 8, 6 or 4, got 5"),
        (lambda: iff.InverseTransformNet.dense(tile=0), "tile must be a whole number of pixels, at least 1, got 0"),
        (lambda: iff.InverseTransformNet.aet(tile=-1), "tile must be a whole number of pixels, at least 1, got -1"),
        (lambda: NetConfig(architecture="aet", outputs=4), "outputs must be 8 for architecture aet, got 4"),
    ],
)
def test_a_bad_size_is_an_error_that_names_it(build: Builder, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(("architecture", "outputs"), [("dense", 6), ("aet", 8)])
def test_the_trainer_trains_them(architecture: str, outputs: int, tmp_path: Path) -> None:
    label_maps = scene_labels(4, 48, 64, torch.Generator().manual_seed(7))
    config = NetConfig(
        architecture, tile=24, outputs=outputs, distance="euclidean", max_pixels=3.0, steps=3, batch_size=4
    )
    net = train_net(label_maps, config, tmp_path, console=Console(quiet=True))
    weights = tmp_path / f"{architecture}.safetensors"
    loaded = iff.InverseTransformNet.from_file(weights)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert last_layer(loaded).weight.shape[0] == outputs
    assert last_layer(loaded).weight.norm() > 0
    bigger = NetConfig(architecture, tile=28, outputs=outputs, init=str(weights))
    with pytest.raises(ValueError, match=f"init must hold a network {architecture} of tile 28.*of tile 24"):
        train_net(label_maps, bigger, tmp_path / "next")


def test_a_state_from_before_networks_had_outputs_resumes(tmp_path: Path) -> None:
    label_maps = scene_labels(4, 48, 64, torch.Generator().manual_seed(7))
    config = NetConfig(architecture="aet", tile=24, max_pixels=3.0, steps=2, batch_size=4)
    trained = train_net(label_maps, config, tmp_path, console=Console(quiet=True))
    state = torch.load(tmp_path / STATE, weights_only=True)
    del state["config"]["outputs"]
    torch.save(state, tmp_path / STATE)
    resumed = train_net(label_maps, config, tmp_path, resume=True, console=Console(quiet=True))
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_the_release_gives_the_norm_of_its_outputs(generator: torch.Generator, tmp_path: Path) -> None:
    weights = release_weights(generator)
    path = tmp_path / "distance_measures_regressor.pth"
    torch.save(weights, path)
    assert path.stat().st_size < 2**20
    net = iff.InverseTransformNet.from_release(path)
    logits, target = torch.randn(1, 1, 90, 180, generator=generator), torch.ones(1, 1, 300, 600)
    found = iff.InverseFormLoss(net=net, resize=(672, 1344), reduction="none")(logits.requires_grad_(), target)
    found.sum().backward()
    assert leaf_grad(logits).norm() > 0

    predicted, true = iff.functional.extract_tiles(logits.detach(), target, (672, 1344), 224)
    values = torch.cat((predicted.flatten(1), true.flatten(1)), 1)
    for layer in ("fc.0", "fc.2", "fc.4"):
        values = torch.addmm(weights[f"{layer}.bias"], values, weights[f"{layer}.weight"].T)
        values = values.relu() if layer != "fc.4" else values
    assert found.shape == (18,)
    torch.testing.assert_close(found.detach(), values.norm(dim=1))


def test_convert_reads_a_checkpoint_of_the_release(generator: torch.Generator, tmp_path: Path) -> None:
    weights = release_weights(generator)
    parallel = {f"module.{name}": value for name, value in weights.items()}
    release, out = tmp_path / "release.pth", tmp_path / "net.safetensors"
    torch.save({"state_dict": parallel, "epoch": 3}, release)
    result = CliRunner().invoke(app, ["convert", str(release), str(out)])
    assert result.exit_code == 0
    assert str(out) in result.output
    net = iff.InverseTransformNet.from_file(out)
    assert (net.architecture, net.tile, net.outputs) == ("dense", 224, 4)
    assert net.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    out.unlink()  # 383 MiB


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"fc.0.weight": torch.zeros(2, 7), "head": torch.zeros(3)},
            r"fc\.0\.weight float32 \(2, 7\), not .*fc\.2\.bias missing.*head float32 \(3,\)",
        ),
        ({"fc.0.weight": torch.zeros(3), "step": 7}, "must hold a state dict of tensors"),
        ([torch.zeros(3)], "must hold a state dict of tensors"),
        ({"state_dict": 5}, "must hold a state dict of tensors"),
    ],
)
def test_a_release_of_other_content_is_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "release.pth")
    with pytest.raises(ValueError, match=message):
        iff.InverseTransformNet.from_release(tmp_path / "release.pth")


def test_a_release_with_code_in_it_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    path, touched = tmp_path / "release.pth", tmp_path / "touched"

    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(touched),)

    plain = pickle.dumps(Evil(), protocol=2)
    pickle.loads(plain)
    touched.rmdir()  # it does run where it is let
    files = [
        lambda: path.write_bytes(plain),
        lambda: torch.save({"fc.0.weight": Evil()}, path),
        lambda: torch.save({"fc.0.weight": Evil()}, path, _use_new_zipfile_serialization=False),
    ]
    for write in files:
        write()
        with pytest.raises(ValueError, match="a pickle with code in it is refused, and nothing in it is run"):
            iff.InverseTransformNet.from_release(path)
        assert not touched.exists()


@pytest.mark.parametrize("new_format", [True, False])
def test_a_truncated_release_is_refused(new_format: bool, tmp_path: Path) -> None:
    path = tmp_path / "release.pth"
    torch.save({"fc.0.weight": torch.zeros(3, 4)}, path, _use_new_zipfile_serialization=new_format)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="must be a complete file of nothing but tensors"):
            iff.InverseTransformNet.from_release(path)


def test_a_flipped_bit_of_a_weight_of_the_release_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "release.pth"
    weight = torch.full((3, 4), 0.5)
    torch.save({"fc.0.weight": weight}, path)
    content = bytearray(path.read_bytes())
    content[content.index(weight.numpy().tobytes()) + 2] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path)["fc.0.weight"], weight)  # PyTorch does not notice
    with pytest.raises(ValueError, match="must be a complete file of nothing but tensors"):
        iff.InverseTransformNet.from_release(path)


def test_a_missing_release_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"release: no weight file at .*nowhere\.pth"):
        iff.InverseTransformNet.from_release(tmp_path / "nowhere.pth")
