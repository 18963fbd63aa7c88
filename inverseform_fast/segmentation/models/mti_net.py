"""MTI-Net (Vandenhende et al., ECCV 2020): tasks are predicted at four scales, and learn from each other at each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from timm.layers import SEModule
from torch import Tensor, nn

from ..tasks import Task
from .backbones import TimmBackbone
from .base import SegmentationModel
from .heads import STRIDE, cut
from .host_blocks import (
    HRNETS,
    INITIAL,
    Distillation,
    basic_block,
    basic_blocks,
    hrnet_head,
    hrnet_trunk,
    main_tasks,
    merged,
    supervised,
)

_RESNET = "resnet18"


class MtiNet(SegmentationModel):
    """Predicts at four scales from coarse to fine, distills between tasks at each, and predicts finally from all four.

    The backbones are those of ``hrnet``, and "resnet18", whose stages (64, 128, 256 and 512 channels) are the four
    scales as they are. The predictions at strides 8, 16 and 32 are ``"task/initial_stride8"`` and so on. That at stride
    4 is ``"task/initial"`` for a main task, and ``"task"`` itself for an auxiliary one, which has no other. So
    InverseForm acts on the finest scale of auxiliary edges, and on the final prediction of edges that are a main task.
    See :func:`~inverseform_fast.segmentation.models.build_model` for the other arguments, result and errors.

    Args:
        auxiliary: names of the tasks that are predicted at the four scales only: they help others, and are not
            evaluated.
        strict_release: let the softmax of the feature propagation run as in the published code, over as many
            consecutive channels as there are tasks. By default it runs over the tasks, as in the paper.

    Raises:
        ValueError: an auxiliary task is none of the tasks, or all are auxiliary; or ``strict_release`` is no bool.
    """

    def __init__(
        self,
        backbone: str,
        tasks: Mapping[str, Task],
        *,
        boundary_head: bool = True,
        pretrained: bool = False,
        auxiliary: Collection[str] = (),
        strict_release: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(strict_release, bool):
            raise ValueError(f"strict_release must be True or False, got {strict_release!r}")
        main, self.auxiliary = main_tasks(tasks, auxiliary), tuple(auxiliary)
        self.trunk = _trunk(backbone, pretrained)
        widths = self.trunk.channels
        passed = [*widths[1:], 0]  # channels that a scale is passed from the next coarser one
        # All lists go from fine to coarse.
        self.scales = nn.ModuleList(_Scale(*channels, tasks) for channels in zip(widths, passed, strict=True))
        self.propagate = nn.ModuleList(_Propagation(width, tasks, strict_release) for width in widths[1:])
        self.distill = nn.ModuleList(Distillation(width, tasks, main) for width in widths)
        self.heads = nn.ModuleDict({name: hrnet_head(sum(widths), tasks[name].channels) for name in main})
        # The boundary head draws its weights last, so that it changes no other initial weight of a seed.
        self.boundary = nn.Conv2d(sum(widths), 1, 1) if boundary_head else None
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        image, branches = inputs["image"], self.trunk(inputs["image"])
        predictions: dict[str, Tensor] = {}
        distilled: list[dict[str, Tensor]] = []
        coarser: dict[str, Tensor] = {}
        for scale in reversed(range(len(branches))):
            features, initial = self.scales[scale](branches[scale], coarser)
            distilled.insert(0, self.distill[scale](features))
            if scale:
                stride = STRIDE << scale
                predictions |= {
                    f"{name}/{INITIAL}_stride{stride}": cut(x, image, stride) for name, x in initial.items()
                }
                coarser = self.propagate[scale - 1](features)
        final = {name: head(merged([maps[name] for maps in distilled])) for name, head in self.heads.items()}
        finest = supervised(initial, final)
        if self.boundary:
            finest["boundary"] = self.boundary(merged(branches))
        return predictions | {name: cut(prediction, image) for name, prediction in finest.items()}


def _trunk(backbone: str, pretrained: bool) -> TimmBackbone:
    if backbone == _RESNET:
        return TimmBackbone(backbone, STRIDE, pretrained)
    if backbone not in HRNETS:
        raise ValueError(f"backbone must be one of {', '.join((*HRNETS, _RESNET))}, got {backbone!r}")
    return hrnet_trunk(backbone, pretrained)


class _Scale(nn.Module):
    """Extracts each task's feature at one scale, and predicts from it.

    Args:
        width: channels of the branch and of the features.
        passed: channels that each task is passed from the next coarser scale.
        tasks: the tasks by name.
    """

    def __init__(self, width: int, passed: int, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        self.features = nn.ModuleDict({name: basic_blocks(width + passed, width) for name in tasks})
        self.heads = nn.ModuleDict({name: nn.Conv2d(width, task.channels, 1) for name, task in tasks.items()})

    def forward(self, branch: Tensor, coarser: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns features and predictions by task; ``coarser`` is empty at the coarsest scale."""
        seen = {name: [branch, coarser[name]] if coarser else [branch] for name in self.features}
        features = {name: extract(merged(seen[name])) for name, extract in self.features.items()}
        return features, {name: head(features[name]) for name, head in self.heads.items()}


class _Propagation(nn.Module):
    """Makes what each task passes on to the next finer scale, from all tasks' features (section 3.3 of the paper)."""

    def __init__(self, width: int, tasks: Iterable[str], strict_release: bool) -> None:
        super().__init__()
        names = list(tasks)
        joint = len(names) * width
        self.gates = nn.ModuleDict({name: SEModule(width, rd_channels=max(width // 16, 1)) for name in names})
        self.attend = basic_blocks(joint, joint // 4).append(nn.Conv2d(joint // 4, joint, 1))
        self.share = basic_block(joint, width)
        # Channels come task by task; the published code reads them as channel by channel.
        self.axes, self.softmax_axis = ((width, len(names)), 2) if strict_release else ((len(names), width), 1)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        joint = torch.cat([features[name] for name in self.gates], 1)
        attention = self.attend(joint).unflatten(1, self.axes).softmax(self.softmax_axis).flatten(1, 2)
        shared = self.share(joint * attention)
        return {name: gate(shared) + features[name] for name, gate in self.gates.items()}
