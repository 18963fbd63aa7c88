"""An SE-ResNet that sees with the eyes of one task at a time: the trunk of ASTMT (Maninis et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import timm
import torch.nn.functional as F
from timm.layers import SEModule
from torch import Tensor, nn

SE_RESNETS = {"seresnet26": (2, 2, 2, 2), "seresnet50": (3, 4, 6, 3), "seresnet101": (3, 4, 23, 3)}  # blocks by stage
CHANNELS = (256, 2048)  # of the features
COARSEST_STRIDE = 16  # in pixels
_PRETRAINED = {"seresnet50": "legacy_seresnet50", "seresnet101": "legacy_seresnet101"}  # timm's names


class PerTask(nn.ModuleDict):
    """Holds a module of its own for each task."""

    @classmethod
    def alike(cls, tasks: Iterable[str], make: Callable[[], nn.Module]) -> PerTask:
        """Makes a module for each of the tasks."""
        return cls({task: make() for task in tasks})


class AdaptedConv(nn.Module):
    """Adds to a convolution that all tasks share a 1x1 convolution of the task's own, its adapter.

    Neither has a bias or a stride, and the size stays. A task without an adapter takes the shared convolution alone.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, tasks: Iterable[str], dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.shared = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
        self.adapters = PerTask.alike(tasks, lambda: nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor, task: str) -> Tensor:
        y = self.shared(x)
        return y + self.adapters[task](x) if task in self.adapters else y


def squeeze_excitation(width: int, reduction: int = 16) -> SEModule:
    """Makes the channel attention of Hu et al. (2018)."""
    return SEModule(width, rd_channels=width // reduction)


class SEResNet(nn.Module):
    """Computes features at strides 4 (256 channels) and 16 (2048 channels) for a task.

    The stride of a block is that of its first convolution. BatchNorms, squeeze-and-excitation and adapters belong to
    the tasks; convolutions and the BatchNorm of the stem are shared.

    Args:
        name: a key of ``SE_RESNETS``.
        tasks: names of the tasks.

    Raises:
        ValueError: the name is unknown.
    """

    def __init__(self, name: str, tasks: Iterable[str]) -> None:
        super().__init__()
        if name not in SE_RESNETS:
            raise ValueError(f"backbone must be one of {', '.join(SE_RESNETS)}, got {name!r}")
        self.name, tasks = name, list(tasks)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.stages = nn.ModuleList()
        inputs = 64
        shapes = zip((64, 128, 256, 512), (1, 2, 2, 1), (1, 1, 1, 2), SE_RESNETS[name], strict=True)
        for width, stride, dilation, depth in shapes:
            blocks = [_Bottleneck(inputs, width, stride, dilation, tasks, projects=True)]
            inputs = 4 * width
            blocks += [_Bottleneck(inputs, width, 1, dilation, tasks, projects=False) for _ in range(depth - 1)]
            self.stages.append(nn.ModuleList(blocks))

    def forward(self, images: Tensor, task: str) -> tuple[Tensor, Tensor]:
        """Returns the features at strides 4 and 16 of images (N, 3, H, W) whose sides are multiples of 16."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, stride=2, padding=1)
        features = []
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, task)
            features.append(x)
        return features[0], features[-1]

    def load_imagenet(self) -> None:
        """Copies timm's weights of ImageNet; BatchNorms and squeeze-and-excitation of every task start from the same.

        Raises:
            ValueError: there are none for this network.
            OSError: they cannot be downloaded.
        """
        if self.name not in _PRETRAINED:
            known = ", ".join(_PRETRAINED)
            raise ValueError(f"pretrained must be False for {self.name}: only {known} have weights of ImageNet")
        source = _PRETRAINED[self.name]
        try:
            self.copy(timm.create_model(source, pretrained=True))
        except OSError as error:
            raise OSError(f"the weights of {source} must be downloaded: {str(error).partition(chr(10))[0]}") from error

    def copy(self, source: nn.Module) -> None:
        """Copies the weights of timm's ``legacy_seresnet`` of the same depth."""
        _copy(source.get_submodule("layer0.conv1"), self.conv1)
        _copy(source.get_submodule("layer0.bn1"), self.bn1)
        for number, stage in enumerate(self.stages, 1):
            blocks = source.get_submodule(f"layer{number}").children()
            for block, other in zip(stage.children(), blocks, strict=True):
                block.copy(other)  # type: ignore[operator]


class _Bottleneck(nn.Module):
    """The residual block: 1x1, 3x3 and 1x1 convolutions."""

    def __init__(
        self, inputs: int, width: int, stride: int, dilation: int, tasks: list[str], *, projects: bool
    ) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, stride=stride, bias=False)
        self.bn1 = PerTask.alike(tasks, lambda: nn.BatchNorm2d(width))
        self.conv2 = AdaptedConv(width, width, 3, tasks, dilation)
        self.bn2 = PerTask.alike(tasks, lambda: nn.BatchNorm2d(width))
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = PerTask.alike(tasks, lambda: nn.BatchNorm2d(outputs))
        self.se = PerTask.alike(tasks, lambda: squeeze_excitation(outputs))
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if projects else None
        self.shortcut_bn = PerTask.alike(tasks, lambda: nn.BatchNorm2d(outputs)) if projects else None

    def forward(self, x: Tensor, task: str) -> Tensor:
        y = F.relu(self.bn1[task](self.conv1(x)))
        y = F.relu(self.bn2[task](self.conv2(y, task)))
        y = self.se[task](self.bn3[task](self.conv3(y)))
        if self.shortcut is not None and self.shortcut_bn is not None:
            x = self.shortcut_bn[task](self.shortcut(x))
        return F.relu(y + x)

    def copy(self, source: nn.Module) -> None:
        shared = {"conv1": self.conv1, "conv2": self.conv2.shared, "conv3": self.conv3}
        per_task = {"bn1": self.bn1, "bn2": self.bn2, "bn3": self.bn3, "se_module": self.se}
        if self.shortcut is not None and self.shortcut_bn is not None:
            shared["downsample.0"], per_task["downsample.1"] = self.shortcut, self.shortcut_bn
        for name, module in shared.items():
            _copy(source.get_submodule(name), module)
        for name, modules in per_task.items():
            for own in modules.values():
                _copy(source.get_submodule(name), own)


def _copy(source: nn.Module, module: nn.Module) -> None:
    module.load_state_dict(source.state_dict())
