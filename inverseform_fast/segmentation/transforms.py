"""Augmentation and preparation of samples; image, targets and void stay together.

Every random number comes from PyTorch's global generator, so that seeding it fixes a sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from .datasets import Sample
from .tasks import Task

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class EvalTransform:
    """Normalises a sample, after resizing it to ``size`` (height, width) if that is given.

    A sample is what a ``SegmentationDataset`` gives: an image, the targets of ``tasks``, and other inputs, which go the
    way of a target of kind ``"map"`` whose void is 0. The result has the same keys: image float32 (3, height, width),
    normalised by ImageNet's mean and standard deviation; targets of labels int64; all else float32.

    Raises:
        ValueError: a size that is not positive.
    """

    def __init__(self, tasks: Mapping[str, Task], size: tuple[int, int] | None = None) -> None:
        if size is not None and min(size) < 1:
            raise ValueError(f"size must be a positive (height, width), got {size}")
        self.tasks, self.size = tasks, size

    def __call__(self, sample: Sample) -> Sample:
        sample = _plain(sample)
        return _finish(sample if self.size is None else _resize(sample, self.tasks, self.size), self.tasks)


class TrainTransform:
    """Random resizing, crop, horizontal flip and colour jitter of the image, then what :class:`EvalTransform` does.

    Args:
        tasks: of the sample's targets; their kinds say how augmentation changes values.
        crop: (height, width) in pixels; where the resized image is smaller it is padded, with 0 before normalisation
            and a target with its task's ``void``.
        scale: range of the resizing factor.
        flip: probability of the flip.
        jitter: strength of the change of brightness, contrast and saturation; the hue changes by a tenth of it.

    Raises:
        ValueError: a crop or scale that is not positive, or a scale that is no range.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        crop: tuple[int, int],
        scale: tuple[float, float] = (0.5, 2.0),
        flip: float = 0.5,
        jitter: float = 0.3,
    ) -> None:
        if min(crop) < 1:
            raise ValueError(f"crop must be a positive (height, width), got {crop}")
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale must be a positive range (lowest, highest), got {scale}")
        self.tasks, self.scale, self.flip = tasks, scale, flip
        self.crop = v2.RandomCrop(crop, pad_if_needed=True)
        self.jitter = v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=jitter / 10)

    def __call__(self, sample: Sample) -> Sample:
        sample = _plain(sample)
        factor = torch.empty(()).uniform_(*self.scale).item()
        height, width = (max(1, round(side * factor)) for side in sample["image"].shape[-2:])
        sample = _resize(sample, self.tasks, (height, width))
        sample = _crop(sample, self.tasks, self.crop.make_params([sample["image"]]))
        if torch.rand(1) < self.flip:
            sample = _flip(sample, self.tasks)
        return _finish(sample | {"image": self.jitter(sample["image"])}, self.tasks)


def denormalize(image: Tensor) -> Tensor:
    """The picture of a normalised image (..., 3, H, W), in the same shape: uint8 RGB."""
    mean, std = (image.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _plain(sample: Sample) -> Sample:
    """The sample without torchvision's types, which would decide what happens to it."""
    return {name: value.as_subclass(Tensor) for name, value in sample.items()}


def _resize(sample: Sample, tasks: Mapping[str, Task], size: tuple[int, int]) -> Sample:
    """Image bilinear with antialias, all else by the nearest pixel centre, so that nothing moves against the image."""
    image = sample["image"]
    scale = math.sqrt(size[0] * size[1] / (image.shape[-2] * image.shape[-1]))
    result = {"image": F.resize(image, list(size), interpolation=InterpolationMode.BILINEAR, antialias=True)}
    for name, value in sample.items():
        if name != "image":
            # v2.Resize takes the pixel below (NEAREST), which moves labels by half a pixel against the image.
            planes = value.reshape(-1, *value.shape[-2:])
            planes = F.resize(planes, list(size), interpolation=InterpolationMode.NEAREST_EXACT)
            result[name] = planes.reshape(*value.shape[:-2], *size)
            if name in tasks and tasks[name].kind == "depth":  # what is twice as large is half as far away
                result[name] = _unless_void(result[name], result[name] / scale, tasks[name])
    return result


def _crop(sample: Sample, tasks: Mapping[str, Task], params: dict[str, Any]) -> Sample:
    """Pads and crops as the parameters of ``v2.RandomCrop`` say."""
    result = {}
    for name, value in sample.items():
        if params["needs_pad"]:
            left, top, right, bottom = params["padding"]
            fill = tasks[name].void if name in tasks else 0
            value = torch.nn.functional.pad(value, (left, right, top, bottom), value=fill)
        rows, columns = (slice(params[s], params[s] + params[n]) for s, n in (("top", "height"), ("left", "width")))
        result[name] = value[..., rows, columns]
    return result


def _flip(sample: Sample, tasks: Mapping[str, Task]) -> Sample:
    """Left becomes right."""
    result = {name: value.flip(-1) for name, value in sample.items()}
    for name, task in tasks.items():
        if task.kind == "normals":
            mirrored = result[name] * torch.tensor([-1, 1, 1])[:, None, None]
            result[name] = _unless_void(result[name], mirrored, task)
    return result


def _unless_void(values: Tensor, changed: Tensor, task: Task) -> Tensor:
    return torch.where(values == task.void, values, changed)


def _finish(sample: Sample, tasks: Mapping[str, Task]) -> Sample:
    """The dtypes that models and losses want, and the image normalised."""
    labels = {name for name, task in tasks.items() if task.kind == "labels"}
    result = {name: value.to(torch.int64 if name in labels else torch.float32) for name, value in sample.items()}
    image = F.to_dtype(sample["image"], torch.float32, scale=True)
    return result | {"image": F.normalize(image, list(MEAN), list(STD))}
