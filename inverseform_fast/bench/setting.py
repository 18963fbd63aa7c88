"""What a measured training step trains, in one dataclass, and the names of the ways to compute its loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from ..fields import check_fields, check_positive

PROVIDERS = {
    "stock": "PyTorch's interpolate and cross-entropy, no boundary head",
    "release": "what the paper's public release does in a step",
    "reference": "BoundaryAwareLoss in plain PyTorch",
    "compiled": "BoundaryAwareLoss by torch.compile",
    "fused": "BoundaryAwareLoss by our kernels: Triton on a GPU, C++ on a CPU",
}
AMP = {"none": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    """What a step trains. Sizes are (height, width) in pixels.

    Raises:
        ValueError: a value is of another type or out of its range; the message names the field.
    """

    backbone: Annotated[str, "Backbone of the model."] = "test_resnet"
    model: Annotated[str, "Model: pyramid, segformer, or another one that is registered."] = "pyramid"
    crop: Annotated[tuple[int, int], "Height and width of the images."] = (512, 1024)
    classes: Annotated[int, "Classes of the labels."] = 19
    batch_size: Annotated[int, "Images per step."] = 1
    amp: Annotated[str, "Mixed precision of the model: none or bf16."] = "none"
    headless: Annotated[bool, "No boundary head, except under the release, which needs one."] = False
    resize: Annotated[
        tuple[int, int] | None,
        "Height and width to which InverseForm resizes boundaries, multiples of 224; those nearest to the crop if not "
        "given.",
    ] = None
    device: Annotated[str, "Device of the step."] = "cpu"

    def __post_init__(self) -> None:
        check_fields(self)
        check_positive(self, "classes", "batch_size", "crop", "resize")
        if self.amp not in AMP:
            raise ValueError(f"amp must be one of {', '.join(AMP)}, got {self.amp!r}")
