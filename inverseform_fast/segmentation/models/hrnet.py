"""HRNet with HRNet's head: the single-task network and the multi-task baseline of the paper's Tables 1 and 3."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..tasks import Task
from .base import SegmentationModel
from .heads import cut
from .host_blocks import hrnet_head, hrnet_trunk, merged


class HRNet(SegmentationModel):
    """Puts one HRNet head for each task on a trunk that they share (Wang et al., 2020).

    A head is two 1x1 convolutions on the concatenation of the four branches. The boundary head, the paper's variant
    "S+E", is one 1x1 convolution on the same concatenation. The backbones are "hrnet_w18", "hrnet_w18_small_v2" and
    "hrnet_w48". See :func:`~inverseform_fast.segmentation.models.build_model` for arguments, result and errors.
    """

    def __init__(
        self, backbone: str, tasks: Mapping[str, Task], *, boundary_head: bool = True, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.trunk = hrnet_trunk(backbone, pretrained)
        width = sum(self.trunk.channels)
        self.heads = nn.ModuleDict({name: hrnet_head(width, task.channels) for name, task in tasks.items()})
        if boundary_head:  # draws its weights last, so that it changes no other initial weight of a seed
            self.heads["boundary"] = nn.Conv2d(width, 1, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        feature = merged(self.trunk(inputs["image"]))
        return {name: cut(head(feature), inputs["image"]) for name, head in self.heads.items()}
