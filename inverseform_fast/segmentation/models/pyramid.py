"""Any timm backbone with a feature pyramid, under a small head."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import Format
from torch import Tensor, nn

_STRIDE = 4


class PyramidSegmenter(nn.Module):
    """Projects every level of stride 4 and more to one width, sums them at stride 4, and classifies.

    A sum of 1x1 projections is a 1x1 convolution of the concatenated levels, which is HRNet's own head. See
    :func:`~inverseform_fast.segmentation.models.build_model` for arguments, result and errors.
    """

    def __init__(self, backbone: str, num_classes: int, boundary_head: bool = True, pretrained: bool = False) -> None:
        super().__init__()
        self.backbone = _create_backbone(backbone, pretrained)
        info: Any = self.backbone.feature_info
        strides = info.reduction()
        if _STRIDE not in strides:
            raise ValueError(f"backbone must have a feature at stride {_STRIDE}; {backbone!r} has strides {strides}")
        self.first_level = strides.index(_STRIDE)
        self.coarsest_stride = max(strides)
        channels = info.channels()[self.first_level :]
        width = min(max(max(channels) // 4, 64), 256)
        self.projections = nn.ModuleList(nn.Conv2d(c, width, 1, bias=False) for c in channels)
        self.fuse = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.segmentation = nn.Conv2d(width, num_classes, 1)
        # Made last, so that with one seed every other weight starts the same with and without it.
        self.boundary = nn.Conv2d(width, 1, 1) if boundary_head else None
        # A third faster on CPUs, and what tensor cores want.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        features = self._features(images)[self.first_level :]
        x = self.projections[-1](features[-1])
        for projection, feature in zip(self.projections[-2::-1], features[-2::-1], strict=True):
            feature = projection(feature)
            x = feature + F.interpolate(x, size=feature.shape[-2:], mode="bilinear", align_corners=False)
        x = self.fuse(x)[..., : -(-height // _STRIDE), : -(-width // _STRIDE)]
        logits = {"segmentation": self.segmentation(x)}
        if self.boundary is not None:
            logits["boundary"] = self.boundary(x)
        return logits

    def _features(self, images: Tensor) -> list[Tensor]:
        """The backbone's features (N, C, h, w) of the images, padded to a multiple of its coarsest stride."""
        height, width = images.shape[-2:]
        padding = (0, -width % self.coarsest_stride, 0, -height % self.coarsest_stride)
        features = self.backbone(F.pad(images, padding).contiguous(memory_format=torch.channels_last))
        if getattr(self.backbone, "output_fmt", Format.NCHW) == Format.NHWC:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return features


def _create_backbone(name: str, pretrained: bool) -> nn.Module:
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=4)
        hint = f"; did you mean {', '.join(close)}?" if close else "; timm.list_models() has them all"
        raise ValueError(f"backbone must be the name of a timm model, got {name!r}{hint}")
    return timm.create_model(name, pretrained=pretrained, features_only=True)
