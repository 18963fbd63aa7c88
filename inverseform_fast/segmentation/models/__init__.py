"""Segmentation models: a new one is a new file here and a line in ``MODELS``."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .pyramid import PyramidSegmenter
from .segformer import SegFormer

# Each takes (backbone, num_classes, boundary_head, pretrained) and maps images to a dict task -> logits.
MODELS: dict[str, Callable[..., nn.Module]] = {"pyramid": PyramidSegmenter, "segformer": SegFormer}


def build_model(
    backbone: str, num_classes: int, boundary_head: bool = True, pretrained: bool = False, model: str = "pyramid"
) -> nn.Module:
    """A model of ``MODELS`` by name.

    Its forward maps float images (N, 3, H, W) to ``{"segmentation": (N, num_classes, h, w)}`` and, with a boundary
    head, ``"boundary": (N, 1, h, w)``: logits at a quarter of the resolution, ``h = ceil(H / 4)``, ``w = ceil(W / 4)``.

    Args:
        backbone: for "pyramid" any timm name whose features include one at stride 4, e.g. "hrnet_w18"; for "segformer"
            "mit_b0" to "mit_b5".
        pretrained: load ImageNet weights into the backbone (downloads them on first use).

    Raises:
        ValueError: an unknown model or backbone, or a backbone without a feature at stride 4.
    """
    if model not in MODELS:
        raise ValueError(f"model must be one of {sorted(MODELS)}, got {model!r}")
    return MODELS[model](backbone, num_classes, boundary_head=boundary_head, pretrained=pretrained)
