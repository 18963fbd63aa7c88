"""What turns a feature into predictions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..tasks import Task

STRIDE = 4  # of the feature that the heads see


class Heads(nn.ModuleDict):
    """A 1x1 convolution per task, and one for the boundary if wanted."""

    def __init__(self, width: int, tasks: Mapping[str, Task], boundary_head: bool) -> None:
        super().__init__({name: nn.Conv2d(width, task.channels, 1) for name, task in tasks.items()})
        if boundary_head:
            # It is made last, so that with one seed every other weight starts the same with and without it.
            self["boundary"] = nn.Conv2d(width, 1, 1)

    def forward(self, feature: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Predictions (N, channels, ceil(H / 4), ceil(W / 4)) by task of a feature at stride 4, (N, width, h, w).

        ``image`` (N, 3, H, W) says the size; the rest of the feature is of padding.
        """
        height, width = (-(-side // STRIDE) for side in image.shape[-2:])
        feature = feature[..., :height, :width]
        return {name: head(feature) for name, head in self.items()}
