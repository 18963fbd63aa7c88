"""The multi-task hosts of the paper share a trunk of four scales, a head and the distillation between tasks.

Sources: HRNet (Wang et al., 2020), PAD-Net (Xu et al., CVPR 2018), MTI-Net (Vandenhende et al., ECCV 2020). No code of
theirs was copied.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock, Bottleneck, downsample_conv
from torch import Tensor, nn

from .backbones import TimmBackbone
from .heads import STRIDE

# Public code calls small_v2 "HRNet-18", and so, most likely, do the paper's tables.
HRNETS = ("hrnet_w18", "hrnet_w18_small_v2", "hrnet_w48")
INITIAL = "initial"  # the stage of a prediction that another one of the same task follows


def hrnet_trunk(backbone: str, pretrained: bool) -> TimmBackbone:
    """Makes an HRNet that returns its four branches at strides 4, 8, 16 and 32, as the multi-task code has it.

    Branches are upsampled bilinearly where they are fused, and BatchNorm has momentum 0.01. Without ImageNet weights,
    those of convolutions start from N(0, 0.001).

    Raises:
        ValueError: the backbone is none of ``HRNETS``.
        OSError: the ImageNet weights cannot be downloaded.
    """
    if backbone not in HRNETS:
        raise ValueError(f"backbone must be one of {', '.join(HRNETS)}, got {backbone!r}")
    # Without feature_location="", timm returns the wider features of its classifier.
    trunk = TimmBackbone(backbone, STRIDE, pretrained, feature_location="")
    for module in trunk.modules():
        if isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "bilinear", False
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.01
        elif isinstance(module, nn.Conv2d) and not pretrained:
            nn.init.normal_(module.weight, std=0.001)
    return trunk


def merged(features: list[Tensor]) -> Tensor:
    """Concatenates the channels of features (N, C_i, h_i, w_i), upsampled to the first one's size."""
    size = features[0].shape[-2:]
    rest = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in features[1:]]
    return torch.cat([features[0], *rest], 1)


def fusion(width: int) -> nn.Sequential:
    """Mixes the channels of a merged feature, as HRNet's head does first."""
    return nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU())


def hrnet_head(width: int, channels: int) -> nn.Sequential:
    """Predicts from a merged feature: HRNet's head."""
    return fusion(width).append(nn.Conv2d(width, channels, 1))


def basic_block(inputs: int, outputs: int) -> BasicBlock:
    """Makes a residual block of two 3x3 convolutions; its shortcut is a 1x1 convolution where the widths differ."""
    projection = None if inputs == outputs else downsample_conv(inputs, outputs, kernel_size=1)
    return BasicBlock(inputs, outputs, downsample=projection)


def basic_blocks(inputs: int, outputs: int) -> nn.Sequential:
    """Makes two residual blocks of two 3x3 convolutions each."""
    return nn.Sequential(basic_block(inputs, outputs), basic_block(outputs, outputs))


def bottlenecks(inputs: int, outputs: int) -> nn.Sequential:
    """Makes two residual bottlenecks whose inner width is a quarter of ``outputs``."""
    projection = None if inputs == outputs else downsample_conv(inputs, outputs, kernel_size=1)
    inner = outputs // 4
    return nn.Sequential(Bottleneck(inputs, inner, downsample=projection), Bottleneck(outputs, inner))


class Distillation(nn.Module):
    """Adds to a task's feature what it learns from the other tasks' (PAD-Net, section 3.3, its "C").

    A message is ``conv(feature) * sigmoid(conv'(feature))``, with 3x3 convolutions of its own for each pair of tasks.

    Args:
        width: channels of all features.
        tasks: names of the tasks that have a feature.
        main: names of those that receive messages.
    """

    def __init__(self, width: int, tasks: Iterable[str], main: Iterable[str]) -> None:
        super().__init__()
        tasks = list(tasks)
        self.messages = nn.ModuleDict(
            {task: nn.ModuleDict({other: _message(width) for other in tasks if other != task}) for task in main}
        )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns a feature (N, width, h, w) for each main task."""
        return {
            task: features[task] + sum(message(features[other]) for other, message in messages.items())  # type: ignore[operator]
            for task, messages in self.messages.items()
        }


def _message(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.GLU(dim=1))


def main_tasks(tasks: Iterable[str], auxiliary: Collection[str]) -> list[str]:
    """Returns the tasks that are not auxiliary.

    Raises:
        ValueError: an auxiliary task is none of the tasks, or all tasks are auxiliary.
    """
    names = list(tasks)
    if isinstance(auxiliary, str) or not set(auxiliary) < set(names):
        raise ValueError(f"auxiliary must be a list of tasks ({', '.join(names)}), but not of all, got {auxiliary!r}")
    return [name for name in names if name not in auxiliary]


def supervised(initial: Mapping[str, Tensor], final: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names the predictions for their losses: an initial one is the task's own unless a final one follows it."""
    return {f"{name}/{INITIAL}" if name in final else name: value for name, value in initial.items()} | dict(final)
