"""Backbones compute features of images at several strides."""

from __future__ import annotations

import difflib

import timm
import torch
import torch.nn.functional as F
from timm.layers import Format
from timm.models import FeatureInfo
from torch import Tensor, nn


class TimmBackbone(nn.Module):
    """Computes the features of a timm model, from a given stride on.

    Args:
        name: name of a timm model.
        finest_stride: stride of the first feature, in pixels.
        pretrained: load ImageNet weights (downloads them on first use).

    Attributes:
        channels: number of channels of each feature, the finest feature first.
        coarsest_stride: stride of the last feature, in pixels.

    Raises:
        ValueError: timm has no such model, or the model has no feature at the stride.
    """

    def __init__(self, name: str, finest_stride: int, pretrained: bool) -> None:
        super().__init__()
        if not timm.is_model(name):
            close = difflib.get_close_matches(name, timm.list_models(), n=4)
            hint = f"; did you mean {', '.join(close)}?" if close else "; timm.list_models() has them all"
            raise ValueError(f"backbone must be the name of a timm model, got {name!r}{hint}")
        self.net = timm.create_model(name, pretrained=pretrained, features_only=True)
        info = self.net.feature_info
        assert isinstance(info, FeatureInfo)
        strides = info.reduction()
        if finest_stride not in strides:
            raise ValueError(f"backbone must have a feature at stride {finest_stride}; {name!r} has strides {strides}")
        self.first = strides.index(finest_stride)
        self.coarsest_stride = max(strides)
        self.channels = info.channels()[self.first :]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns features (N, C, h, w) of images (N, 3, H, W), padded to multiples of the coarsest stride."""
        height, width = images.shape[-2:]
        padding = (0, -width % self.coarsest_stride, 0, -height % self.coarsest_stride)
        features = self.net(F.pad(images, padding).contiguous(memory_format=torch.channels_last))[self.first :]
        if getattr(self.net, "output_fmt", Format.NCHW) == Format.NHWC:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return features
