"""The inverse-transformation network has exact symmetries for any weights; weight files load strictly or not at all."""

from __future__ import annotations

import pickle
import resource
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import inverseform_fast as iff
from inverseform_fast.nets import WEIGHTS, Align
from inverseform_fast.nets.weights import SHIPPED

TILE = 64


@pytest.fixture
def net() -> Align:
    torch.manual_seed(0)
    return Align(tile=TILE).eval()


def maps(count: int, seed: int) -> Tensor:
    return torch.rand(count, 1, TILE, TILE, generator=torch.Generator().manual_seed(seed))


def test_identical_maps_give_exactly_the_identity_for_any_weights(net: Align) -> None:
    x = maps(5, 0)
    assert torch.equal(net.algebra(x, x.clone()), torch.zeros(5, 8))
    assert torch.equal(net(x, x.clone()), torch.eye(3).expand(5, 3, 3))


def test_the_base_is_no_network() -> None:
    with pytest.raises(TypeError, match="algebra"):
        iff.InverseTransformNet()  # type: ignore[abstract]


def test_identical_rows_among_others_give_exactly_the_identity(net: Align) -> None:
    x, y = maps(7, 0), maps(7, 1)
    y[[2, 6]] = x[[2, 6]]
    a = net.algebra(x, y)
    assert torch.equal(a[[2, 6]], torch.zeros(2, 8))
    assert (a[[0, 1, 3, 4, 5]].norm(dim=1) > 0).all()


def test_swapped_maps_give_the_inverse(net: Align) -> None:
    with torch.no_grad():
        for parameter in net.measure["4"].parameters():  # make estimates of a size that matters
            parameter.mul_(50)
    x, y = maps(6, 0), maps(6, 1)
    for there, back in zip(net.estimates(x, y), net.estimates(y, x), strict=True):
        torch.testing.assert_close(there, -back, rtol=1e-4, atol=1e-6)
    assert net.algebra(x, y).norm(dim=1).max() > 0.02
    torch.testing.assert_close(net(x, y) @ net(y, x), torch.eye(3).expand(6, 3, 3), rtol=0, atol=1e-5)


def test_shipped_network_swaps_to_the_inverse() -> None:
    net = iff.InverseTransformNet.compact()
    x = (maps(2, 0).repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :224, :224] > 0.9).float()
    y = x.roll((3, 5), (2, 3))
    torch.testing.assert_close(net(x, y) @ net(y, x), torch.eye(3).expand(2, 3, 3), rtol=0, atol=1e-5)
    assert torch.equal(net.algebra(x, x), torch.zeros(2, 8))


def test_gradient_reaches_the_prediction(net: Align) -> None:
    x = maps(2, 0).requires_grad_()
    net.algebra(x, maps(2, 1)).norm(dim=1).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()


def test_the_network_compiles_without_a_graph_break(net: Align) -> None:
    x, y = maps(2, 0), maps(2, 1)
    compiled = torch.compile(net.pair, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), net.pair(x, y))


def test_saved_weights_load_to_the_same_network(net: Align, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    net.save(path, note="kept")
    loaded = iff.InverseTransformNet.from_file(path)
    x, y = maps(3, 0), maps(3, 1)
    assert torch.equal(loaded(x, y), net(x, y))
    assert loaded.tile == TILE
    assert not loaded.training
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_small_and_carded(name: str) -> None:
    assert (WEIGHTS / f"{name}.safetensors").stat().st_size <= 4 * 1024**2
    assert (WEIGHTS / f"{name}.md").is_file()
    assert iff.InverseFormLoss(name).net.tile == 224


def test_a_network_is_named_or_lies_at_a_path(net: Align, tmp_path: Path) -> None:
    net.save(tmp_path / "net.safetensors")
    weights = [iff.InverseFormLoss(each).net.state_dict() for each in (*SHIPPED, tmp_path / "net.safetensors")]
    assert len({float(each["features.1.weight"].sum()) for each in weights}) == 3


def test_a_missing_weight_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"net: no weight file at .*nowhere"):
        iff.InverseFormLoss(net=tmp_path / "nowhere.safetensors")


def test_pickled_weights_are_refused(net: Align, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (tmp_path.joinpath("touched").touch, ())

    path = tmp_path / "net.pth"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="pickled weights are refused"):
        iff.InverseFormLoss(net=path)
    torch.save(net.state_dict(), path)
    with pytest.raises(ValueError, match="pickled weights are refused"):
        iff.InverseTransformNet.from_file(path)
    assert not (tmp_path / "touched").exists()


def test_truncated_weights_are_refused(net: Align, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    net.save(path)
    content = path.read_bytes()
    for length in (0, 4, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="must be a complete safetensors file"):
            iff.InverseTransformNet.from_file(path)


def test_weights_of_another_shape_name_what_differs(net: Align, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    net.save(path)
    weights = load_file(path)
    weights["features.1.weight"] = weights["features.1.weight"][:1]
    del weights["features.1.bias"]
    weights["extra"] = torch.zeros(2)
    save_file(weights, path, {"architecture": net.architecture, "tile": str(TILE)})
    with pytest.raises(ValueError, match=r"extra .*features.1.bias missing.*features.1.weight float32 \(1, "):
        iff.InverseTransformNet.from_file(path)


@pytest.mark.parametrize("header", [None, {"architecture": "vgg", "tile": "64"}, {"architecture": "align"}])
def test_weights_without_a_known_architecture(net: Align, tmp_path: Path, header: dict | None) -> None:
    path = tmp_path / "net.safetensors"
    save_file(net.state_dict(), path, header)
    with pytest.raises(ValueError, match="must name an architecture"):
        iff.InverseTransformNet.from_file(path)


@pytest.mark.parametrize(
    "header",
    [
        {"architecture": "align", "tile": "80000"},
        {"architecture": "dense", "tile": "4096", "outputs": "8"},
        {"architecture": "dense", "tile": "9" * 5000, "outputs": "8"},
        {"architecture": "dense", "tile": "8", "outputs": "5"},
        {"architecture": "aet", "tile": "4000"},
        {"architecture": "align", "tile": "\u00b2"},
        {"architecture": "align", "tile": "-8"},
    ],
    ids=str,
)
def test_a_small_file_takes_little_memory(tmp_path: Path, header: dict[str, str]) -> None:
    """Whatever its metadata say, nothing is made that its tensors do not fill."""
    path = tmp_path / "net.safetensors"
    save_file({"weight": torch.zeros(3)}, path, header)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"net: .*net\.safetensors must (name|be)"):
        iff.InverseTransformNet.from_file(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # kilobytes


@pytest.mark.parametrize(
    "bad", [torch.full((8,), torch.nan), torch.full((8,), torch.inf), torch.ones(8, dtype=torch.int32)], ids=str
)
def test_weights_that_are_no_finite_floats_are_refused(net: Align, tmp_path: Path, bad: Tensor) -> None:
    path = tmp_path / "net.safetensors"
    net.save(path)
    weights = load_file(path)
    weights["prior"] = bad
    save_file(weights, path, {"architecture": net.architecture, "tile": str(TILE)})
    with pytest.raises(ValueError, match=r"must be finite, but prior is not|prior int32"):
        iff.InverseTransformNet.from_file(path)


def test_a_wrong_path_or_metadata_is_named(net: Align, tmp_path: Path) -> None:
    for load, name in (
        (iff.InverseTransformNet.from_file, "net"),
        (iff.InverseTransformNet.from_release, "release"),
        (iff.SpatialTransformer.from_file, "stn"),
    ):
        with pytest.raises(TypeError, match=f"{name} must be a path, got 5"):
            load(cast(str, 5))
    with pytest.raises(TypeError, match="path must be a path, got None"):
        net.save(cast(str, None))
    with pytest.raises(TypeError, match=r"step must be text.* got 7"):
        net.save(tmp_path / "net.safetensors", step=cast(str, 7))
    assert not list(tmp_path.iterdir())


def test_tile_must_fit_the_network() -> None:
    for tile in (0, 100):
        with pytest.raises(ValueError, match=f"tile must be a positive multiple of 8, got {tile}"):
            Align(tile=tile)
    small, tiles = Align(tile=24), torch.rand(2, 2, 1, 24, 24)
    assert small.pair(*tiles).isfinite().all()


def test_the_default_network_is_cheap() -> None:
    net = Align()
    with FlopCounterMode(display=False) as counter:
        net.algebra(*torch.zeros(2, 1, 1, 224, 224))
    assert counter.get_total_flops() / 2 <= 60e6  # multiply-adds
    assert sum(parameter.numel() for parameter in net.parameters()) <= 1e6


def test_an_empty_batch(net: Align) -> None:
    none = torch.zeros(0, 1, TILE, TILE)
    assert net.algebra(none, none).shape == (0, 8)
    assert net.pair(none, none).shape == (0, 3, 3)


def test_a_networks_noise_is_in_its_file(tmp_path: Path) -> None:
    net = iff.InverseTransformNet.compact()
    assert net.noise is None
    net.noise = 0.025
    net.save(tmp_path / "net.safetensors")
    assert iff.InverseTransformNet.from_file(tmp_path / "net.safetensors").noise == 0.025


@pytest.mark.parametrize("noise", ["much", "nan", "inf", "0", "-1"])
def test_a_noise_that_is_none_is_refused(tmp_path: Path, noise: str) -> None:
    iff.InverseTransformNet.compact().save(tmp_path / "net.safetensors", noise=noise)
    with pytest.raises(ValueError, match=f"must be a positive number of half tiles, got '{noise}'"):
        iff.InverseTransformNet.from_file(tmp_path / "net.safetensors")


def test_a_weight_file_that_was_damaged_is_refused(tmp_path: Path) -> None:
    """safetensors has no checksum, so a flipped bit would load as another weight."""
    path = tmp_path / "net.safetensors"
    Align(tile=TILE).save(path)
    whole = path.read_bytes()
    for index in range(len(whole) - 1, 0, -len(whole) // 40):
        damaged = bytearray(whole)
        damaged[index] ^= 1 << index % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"net: .*net\.safetensors"):
            iff.InverseTransformNet.from_file(path)


def test_a_weight_file_without_a_digest_is_read(tmp_path: Path) -> None:
    net = Align(tile=TILE)
    save_file(net.state_dict(), tmp_path / "old.safetensors", {"architecture": "align", "tile": str(TILE)})
    assert iff.InverseTransformNet.from_file(tmp_path / "old.safetensors").tile == TILE


def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path: Path) -> None:
    net, path = Align(tile=TILE), tmp_path / "net.safetensors"
    name, weight = next(iter(net.named_parameters()))
    with torch.no_grad():
        weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=rf"must be finite, but {name} is not"):
        net.save(path)
    assert not path.exists()
    save_file(net.state_dict(), path, {"architecture": "align", "tile": str(TILE)})
    with pytest.raises(ValueError, match=rf"must be finite, but {name} is not"):
        iff.InverseTransformNet.from_file(path)
