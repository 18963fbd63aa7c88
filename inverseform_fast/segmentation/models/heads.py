"""Heads turn a feature into predictions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..tasks import Task

STRIDE = 4  # in pixels, of the feature that the heads see


def cut(feature: Tensor, image: Tensor, stride: int = STRIDE) -> Tensor:
    """Cuts off what a feature (N, C, h, w) has from padding; returns (N, C, ceil(H / stride), ceil(W / stride))."""
    height, width = (-(-side // stride) for side in image.shape[-2:])
    return feature[..., :height, :width]


class Heads(nn.ModuleDict):
    """Predicts each task, and the boundary if wanted, by a 1x1 convolution of its own."""

    def __init__(self, width: int, tasks: Mapping[str, Task], boundary_head: bool) -> None:
        super().__init__({name: nn.Conv2d(width, task.channels, 1) for name, task in tasks.items()})
        if boundary_head:
            # The boundary head draws its weights last, so that it changes no other initial weight of a seed.
            self["boundary"] = nn.Conv2d(width, 1, 1)

    def forward(self, feature: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Predicts (N, channels, ceil(H / 4), ceil(W / 4)) by task.

        Args:
            feature: (N, width, h, w) at stride 4; what exceeds the image's size comes from padding and is cut off.
            image: (N, 3, H, W), of which only the size matters.
        """
        feature = cut(feature, image)
        return {name: head(feature) for name, head in self.items()}
