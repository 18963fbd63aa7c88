"""ASTMT: one network attends to one task at a time (Maninis et al., "Attentive Single-Tasking", CVPR 2019).

No code of theirs was copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from timm.layers import SEModule
from torch import Tensor, nn

import inverseform_fast as iff

from ..tasks import Task
from .base import Predict, SegmentationModel, TermsOf
from .heads import cut
from .host_blocks import merged
from .se_resnet import CHANNELS, COARSEST_STRIDE, AdaptedConv, PerTask, SEResNet, squeeze_excitation

_WIDTH = 64  # channels of the decoder
_LOW_WIDTH = 12  # channels that the feature at stride 4 is reduced to
_DILATIONS = (6, 12, 18)
_ADVERSARY_SHARE = 0.01  # of the loss
_VOID = 255
_FEATURES = "astmt/features"  # no name of a task has a slash


class Astmt(SegmentationModel):
    """Has BatchNorms, squeeze-and-excitation and adapters for each task in an SE-ResNet and its DeepLabv3+ decoder.

    Each task takes a forward pass and, in training, a step of the optimizer of its own: ``losses`` yields once for each
    task, and a gradient reaches only what that task used. An adversary guesses the task from the gradient of its loss
    with respect to the last features, and the network learns to hide it. The losses therefore need second derivatives,
    so they run on the reference backend: the fused kernels have first derivatives only.

    InverseForm acts in the pass of the task whose loss has it; there is no boundary head. The backbones are
    "seresnet26", "seresnet50" and "seresnet101"; the first one has no ImageNet weights. The original fed raw RGB
    0..255; this one takes normalized images, as the ImageNet weights of timm want them. See
    :func:`~inverseform_fast.segmentation.models.build_model` for arguments, result and errors.

    Raises:
        ValueError: ``boundary_head`` is set, or the backbone has no ImageNet weights but ``pretrained`` is set.
    """

    takes_turns = True

    def __init__(
        self, backbone: str, tasks: Mapping[str, Task], *, boundary_head: bool = True, pretrained: bool = False
    ) -> None:
        super().__init__()
        if boundary_head:
            raise ValueError("boundary_head must be False for astmt, which predicts one task at a time, got True")
        self.voids = {name: task.void for name, task in tasks.items()}
        self.trunk = SEResNet(backbone, tasks)
        self.decoder = _Decoder(list(tasks))
        self.heads = PerTask({name: nn.Conv2d(_WIDTH, task.channels, 1) for name, task in tasks.items()})
        self.adversary = nn.Sequential(
            nn.Conv2d(_WIDTH, _WIDTH, 1, bias=False), nn.ReLU(), nn.Conv2d(_WIDTH, len(tasks), 1)
        )
        self._initialize()
        if pretrained:
            self.trunk.load_imagenet()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
        for module in self.modules():
            if isinstance(module, SEModule):
                nn.init.kaiming_normal_(module.fc1.weight)
                nn.init.kaiming_normal_(module.fc2.weight)
            elif isinstance(module, AdaptedConv):
                for adapter in module.adapters.values():
                    nn.init.zeros_(adapter.weight)  # type: ignore[arg-type]

    def forward(self, inputs: Mapping[str, Tensor], task: str | None = None) -> dict[str, Tensor]:
        """Predicts one task, or, in evaluation, all of them one after another; see the base class.

        Raises:
            ValueError: no task is given in training.
        """
        image = inputs["image"]
        if task is None:
            if self.training:
                raise ValueError("task must be given in training: astmt learns one at a time (see its method losses)")
            return {name: cut(self.heads[name](self._features(image, name)), image) for name in self.heads}
        features = self._features(image, task)
        return {task: cut(self.heads[task](features), image), _FEATURES: features}

    def _features(self, image: Tensor, task: str) -> Tensor:
        """Returns the last features (N, 64, h, w) of a task at stride 4."""
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % COARSEST_STRIDE, 0, -height % COARSEST_STRIDE))
        low, high = self.trunk(padded.contiguous(memory_format=torch.channels_last), task)
        return self.decoder(low, high, task)

    def losses(
        self, predict: Predict, criterion: TermsOf, targets: Mapping[str, Tensor], progress: float
    ) -> Iterator[dict[str, Tensor]]:
        """Yields the terms of one task after another; those of a task without a valid pixel are left out.

        Each has the term ``"adversary/TASK"`` besides those of the criterion. See the base class for arguments.
        """
        for name, target in targets.items():
            valid = target != self.voids[name]
            if not valid.any():
                continue
            predictions = predict(name)
            features = predictions.pop(_FEATURES)
            with iff.set_backend("reference"):
                terms = criterion(predictions, {name: target})
            [gradient] = torch.autograd.grad(terms["total"], features, create_graph=True)
            height, width = predictions[name].shape[-2:]
            guess = self._adversary_loss(gradient[..., :height, :width], valid, name, progress)
            total = (1 - _ADVERSARY_SHARE) * terms["total"] + _ADVERSARY_SHARE * guess
            yield terms | {"total": total, f"adversary/{name}": guess}

    def _adversary_loss(self, gradient: Tensor, valid: Tensor, task: str, progress: float) -> Tensor:
        """Returns the cross-entropy of guessing the task from its gradient (N, 64, h, w), at pixels with a target."""
        strength = 2 / (1 + math.exp(-10 * progress)) - 1
        direction = gradient / (torch.linalg.vector_norm(gradient, dim=1, keepdim=True) + 1e-10)
        # The value is that of the direction; its gradient comes back reversed.
        reversed_direction = direction.detach() - strength * (direction - direction.detach())
        seen = valid[:, None] if valid.ndim == 3 else valid.any(1, keepdim=True)
        seen = F.interpolate(seen.float(), gradient.shape[-2:])[:, 0] > 0
        truth = torch.where(seen, list(self.heads).index(task), _VOID)
        guesses = self.adversary(reversed_direction)
        loss = F.cross_entropy(guesses, truth, ignore_index=_VOID, reduction="sum")
        return loss / seen.sum().clamp(min=1)

    def lr_scales(self) -> dict[str, float]:
        scales = {name: 10.0 for name, _ in self.named_parameters() if name.startswith("adversary.")}
        for path, module in self.named_modules():
            if isinstance(module, PerTask):
                scales |= {f"{path}.{name}": float(len(self.heads)) for name, _ in module.named_parameters()}
        return scales


class _Unit(nn.Module):
    """A convolution, with BatchNorm, ReLU and squeeze-and-excitation for each task."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        tasks: list[str],
        *,
        dilation: int = 1,
        reduction: int = 16,
        adapted: bool = True,
    ) -> None:
        super().__init__()
        self.conv = AdaptedConv(inputs, outputs, kernel, tasks if adapted else (), dilation)
        self.bn = PerTask.alike(tasks, lambda: nn.BatchNorm2d(outputs))
        self.se = PerTask.alike(tasks, lambda: squeeze_excitation(outputs, reduction))

    def forward(self, x: Tensor, task: str) -> Tensor:
        return self.se[task](F.relu(self.bn[task](self.conv(x, task))))


class _Decoder(nn.Module):
    """DeepLabv3+'s decoder: it looks at several dilations and at the whole image, then at the finer feature."""

    def __init__(self, tasks: list[str]) -> None:
        super().__init__()
        low, high = CHANNELS
        self.branches = nn.ModuleList([_Unit(high, _WIDTH, 1, tasks)])
        self.branches += [_Unit(high, _WIDTH, 3, tasks, dilation=dilation) for dilation in _DILATIONS]
        self.whole = _Unit(high, _WIDTH, 1, tasks, adapted=False)
        self.fuse = _Unit((len(self.branches) + 1) * _WIDTH, _WIDTH, 1, tasks)
        self.reduce = _Unit(low, _LOW_WIDTH, 1, tasks, reduction=4)
        self.refine = nn.ModuleList([_Unit(_WIDTH + _LOW_WIDTH, _WIDTH, 3, tasks), _Unit(_WIDTH, _WIDTH, 3, tasks)])

    def forward(self, low: Tensor, high: Tensor, task: str) -> Tensor:
        seen = [branch(high, task) for branch in self.branches]
        whole = self.whole(high.mean((2, 3), keepdim=True), task).expand_as(seen[0])
        x = merged([self.reduce(low, task), self.fuse(torch.cat([*seen, whole], 1), task)])
        for unit in self.refine:
            x = unit(x, task)
        return x
