"""PAD-Net (Xu et al., CVPR 2018) on HRNet: tasks are predicted once, learn from each other, and are predicted again."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from ..tasks import Task
from .base import SegmentationModel
from .heads import cut
from .host_blocks import Distillation, bottlenecks, fusion, hrnet_trunk, main_tasks, merged, supervised

_WIDTH = 256  # channels of a task's feature


class PadNet(SegmentationModel):
    """Predicts each task initially, distills features between tasks, and predicts the main tasks finally.

    The backbones are those of ``hrnet``. ``"task/initial"`` is the initial prediction for a main task; that for an
    auxiliary task, which has no other, is ``"task"`` itself. So InverseForm acts on the initial prediction of
    auxiliary edges, and on the final one of edges that are a main task. See
    :func:`~inverseform_fast.segmentation.models.build_model` for the other arguments, result and errors.

    Args:
        auxiliary: names of the tasks that are predicted initially only: they help others, and are not evaluated.

    Raises:
        ValueError: an auxiliary task is none of the tasks, or all tasks are auxiliary.
    """

    def __init__(
        self,
        backbone: str,
        tasks: Mapping[str, Task],
        *,
        boundary_head: bool = True,
        pretrained: bool = False,
        auxiliary: Collection[str] = (),
    ) -> None:
        super().__init__()
        main, self.auxiliary = main_tasks(tasks, auxiliary), tuple(auxiliary)
        self.trunk = hrnet_trunk(backbone, pretrained)
        width = sum(self.trunk.channels)
        self.fuse = fusion(width)
        self.features = nn.ModuleDict({name: bottlenecks(width, _WIDTH) for name in tasks})
        self.initial = nn.ModuleDict({name: nn.Conv2d(_WIDTH, task.channels, 1) for name, task in tasks.items()})
        self.distill = Distillation(_WIDTH, tasks, main)
        self.heads = nn.ModuleDict(
            {name: bottlenecks(_WIDTH, _WIDTH).append(nn.Conv2d(_WIDTH, tasks[name].channels, 1)) for name in main}
        )
        # The boundary head draws its weights last, so that it changes no other initial weight of a seed.
        self.boundary = nn.Conv2d(width, 1, 1) if boundary_head else None
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        branches = merged(self.trunk(inputs["image"]))
        fused = self.fuse(branches)
        features = {name: extract(fused) for name, extract in self.features.items()}
        initial = {name: head(features[name]) for name, head in self.initial.items()}
        distilled = self.distill(features)
        final = {name: head(distilled[name]) for name, head in self.heads.items()}
        predictions = supervised(initial, final)
        if self.boundary:
            predictions["boundary"] = self.boundary(branches)
        return {name: cut(prediction, inputs["image"]) for name, prediction in predictions.items()}
