"""The registry of models: a new model is one new file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..tasks import Task
from .astmt import Astmt
from .base import ModelType, SegmentationModel
from .hrnet import HRNet
from .mti_net import MtiNet
from .pad_net import PadNet
from .pyramid import PyramidSegmenter
from .segformer import SegFormer

__all__ = ["MODELS", "ModelType", "PyramidSegmenter", "SegFormer", "SegmentationModel", "build_model"]

MODELS: dict[str, ModelType] = {
    "pyramid": PyramidSegmenter,
    "segformer": SegFormer,
    "hrnet": HRNet,
    "pad_net": PadNet,
    "mti_net": MtiNet,
    "astmt": Astmt,
}


def build_model(
    name: str,
    backbone: str,
    tasks: Mapping[str, Task],
    *,
    boundary_head: bool = True,
    pretrained: bool = False,
    **options: Any,
) -> SegmentationModel:
    """Makes a model of ``MODELS`` by name.

    Its forward maps ``{"image": float32 (N, 3, H, W)}`` to a dict with (N, channels, h, w) for each task and, with a
    boundary head, ``"boundary"``: (N, 1, h, w) logits. The models of this library predict at a quarter of the
    resolution: ``h = ceil(H / 4)``, ``w = ceil(W / 4)``.

    Args:
        name: a key of ``MODELS``.
        backbone: for "pyramid" any timm name whose features include one at stride 4, e.g. "hrnet_w18"; for "segformer"
            "mit_b0" to "mit_b5"; for "hrnet" and "pad_net" "hrnet_w18", "hrnet_w18_small_v2" or "hrnet_w48", for
            "mti_net" also "resnet18"; for "astmt" "seresnet26", "seresnet50" or "seresnet101".
        tasks: the tasks to predict, by name.
        boundary_head: whether to add a head that predicts boundary logits.
        pretrained: load ImageNet weights into the backbone (downloads them on first use).
        options: more arguments of the model's class.

    Raises:
        ValueError: the model, the backbone or an option is unknown, or the backbone has no feature at stride 4.
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    try:
        return MODELS[name](backbone, tasks, boundary_head=boundary_head, pretrained=pretrained, **options)
    except TypeError as error:
        if not options:
            raise
        raise ValueError(f"model_options must be arguments of the model {name!r}: {error}") from error
