"""Models: a new one is one new file and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from ..tasks import Task
from .base import ModelType, SegmentationModel
from .pyramid import PyramidSegmenter
from .segformer import SegFormer

__all__ = ["MODELS", "ModelType", "PyramidSegmenter", "SegFormer", "SegmentationModel", "build_model"]

MODELS: dict[str, ModelType] = {"pyramid": PyramidSegmenter, "segformer": SegFormer}


def build_model(
    name: str, backbone: str, tasks: Mapping[str, Task], *, boundary_head: bool = True, pretrained: bool = False
) -> SegmentationModel:
    """A model of ``MODELS`` by name.

    Its forward maps ``{"image": float32 (N, 3, H, W)}`` to a dict with (N, channels, h, w) for each task and, with a
    boundary head, ``"boundary"``: (N, 1, h, w) logits. Those of this library are at a quarter of the resolution,
    ``h = ceil(H / 4)``, ``w = ceil(W / 4)``.

    Args:
        backbone: for "pyramid" any timm name whose features include one at stride 4, e.g. "hrnet_w18"; for "segformer"
            "mit_b0" to "mit_b5".
        tasks: what to predict, by name.
        pretrained: load ImageNet weights into the backbone (downloads them on first use).

    Raises:
        ValueError: an unknown model or backbone, or a backbone without a feature at stride 4.
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    return MODELS[name](backbone, tasks, boundary_head=boundary_head, pretrained=pretrained)
