"""The pyramid model puts a small head on any timm backbone that gives a pyramid of features."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tasks import Task
from .backbones import TimmBackbone
from .base import SegmentationModel
from .heads import STRIDE, Heads


class PyramidSegmenter(SegmentationModel):
    """Projects every level from stride 4 on to one width, sums them at stride 4, and predicts from the sum.

    The sum of 1x1 projections equals a 1x1 convolution of the concatenated levels, which is HRNet's own head. See
    :func:`~inverseform_fast.segmentation.models.build_model` for arguments, result and errors.
    """

    def __init__(
        self, backbone: str, tasks: Mapping[str, Task], *, boundary_head: bool = True, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.backbone = TimmBackbone(backbone, STRIDE, pretrained)
        width = min(max(max(self.backbone.channels) // 4, 64), 256)
        self.projections = nn.ModuleList(nn.Conv2d(c, width, 1, bias=False) for c in self.backbone.channels)
        self.fuse = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.heads = Heads(width, tasks, boundary_head)
        # channels_last is a third faster on CPUs, and tensor cores want it.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        features = self.backbone(inputs["image"])
        x = self.projections[-1](features[-1])
        for projection, feature in zip(self.projections[-2::-1], features[-2::-1], strict=True):
            feature = projection(feature)
            x = feature + F.interpolate(x, size=feature.shape[-2:], mode="bilinear", align_corners=False)
        return self.heads(self.fuse(x), inputs["image"])
