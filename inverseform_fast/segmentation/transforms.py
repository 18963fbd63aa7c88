"""Samples are augmented and prepared so that image, targets and void stay together.

Every random number comes from PyTorch's global generator, so seeding it fixes a sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from ..checks import LABEL_DTYPES, check_tensor, shown
from .datasets import Sample
from .tasks import Task

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class EvalTransform:
    """Normalizes a sample, after resizing it to ``size`` (height, width) if that is given.

    A sample is what a ``SegmentationDataset`` gives: an image, the targets of ``tasks``, and other inputs, which are
    treated as targets of kind ``"map"`` whose void is 0. The result has the same keys: the image is float32
    (3, height, width), normalized by ImageNet's mean and standard deviation; targets of labels are int64; all else is
    float32. Depth keeps the data's units; with ``size``, the result also has ``"scale"``, a scalar, which says how
    much larger the image has become, so that ``evaluation.predict`` gives depth in these units, too.

    Raises:
        ValueError: ``size`` is not positive; or an image is not uint8 (3, H, W), or labels are no integers.
    """

    def __init__(self, tasks: Mapping[str, Task], size: tuple[int, int] | None = None) -> None:
        if size is not None and min(size) < 1:
            raise ValueError(f"size must be a positive (height, width), got {size}")
        self.tasks, self.size = tasks, size

    def __call__(self, sample: Sample) -> Sample:
        sample = _plain(sample, self.tasks)
        if self.size is not None:
            scale = torch.tensor(_scale(sample["image"], self.size))
            sample = _resize(sample, self.size) | {"scale": scale}
        return _finish(sample, self.tasks)


class TrainTransform:
    """Resizes, crops, flips and colour-jitters a sample at random, then prepares it as :class:`EvalTransform` does.

    Args:
        tasks: the tasks of the sample's targets, by name; a task's kind says how augmentation changes its values.
        crop: (height, width) in pixels. A smaller image is padded with 0 before it is normalized, and a target with
            its task's ``void``.
        scale: smallest and largest factor of the resizing.
        flip: probability of the horizontal flip.
        jitter: strength of the change of brightness, contrast and saturation; the hue changes by a tenth of it.

    Raises:
        ValueError: ``crop`` or ``scale`` is not positive, or ``scale`` is no range; or an image is not uint8 (3, H, W),
            or labels are no integers.
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
        sample = _plain(sample, self.tasks)
        factor = torch.empty(()).uniform_(*self.scale).item()
        height, width = (max(1, round(side * factor)) for side in sample["image"].shape[-2:])
        scale = _scale(sample["image"], (height, width))
        sample = _resize(sample, (height, width))
        for name, task in self.tasks.items():
            if task.kind == "depth":  # an object that is twice as large looks half as far away
                sample[name] = _unless_void(sample[name], sample[name] / scale, task)
        sample = _crop(sample, self.tasks, self.crop.make_params([sample["image"]]))
        if torch.rand(1) < self.flip:
            sample = _flip(sample, self.tasks)
        return _finish(sample | {"image": self.jitter(sample["image"])}, self.tasks)


def denormalize(image: Tensor) -> Tensor:
    """Turns a normalized image (..., 3, H, W) back into a picture of the same shape, uint8 RGB."""
    mean, std = (image.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _plain(sample: Sample, tasks: Mapping[str, Task]) -> Sample:
    """The sample, checked, without torchvision's types, which would decide what happens to it."""
    for name, value in sample.items():
        check_tensor(value, name)
    image = sample["image"]
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
        raise ValueError(f"image must be uint8 (3, H, W), got {shown(image)}")
    for name, task in tasks.items():
        if name in sample and task.kind == "labels" and sample[name].dtype not in LABEL_DTYPES:
            raise ValueError(f"{name} must be of an integer dtype, got {shown(sample[name])}")
    return {name: value.as_subclass(Tensor) for name, value in sample.items()}


def _scale(image: Tensor, size: tuple[int, int]) -> float:
    """How much larger an image (3, H, W) becomes by a resize to ``size``."""
    return math.sqrt(size[0] * size[1] / (image.shape[-2] * image.shape[-1]))


def _resize(sample: Sample, size: tuple[int, int]) -> Sample:
    """Resizes the image bilinearly with antialiasing, all else to the nearest pixel centre, so that nothing shifts."""
    image = sample["image"]
    precise = image.float() if tuple(size) == (1, 1) else image  # PyTorch 2.11 cannot make one pixel of bytes
    resized = F.resize(precise, list(size), interpolation=InterpolationMode.BILINEAR, antialias=True)
    result = {"image": resized.round().to(torch.uint8)}
    for name, value in sample.items():
        if name != "image":
            # NEAREST, which v2.Resize uses for masks, rounds positions down and so shifts labels by half a pixel.
            planes = value.reshape(-1, *value.shape[-2:])
            planes = F.resize(planes, list(size), interpolation=InterpolationMode.NEAREST_EXACT)
            result[name] = planes.reshape(*value.shape[:-2], *size)
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
    """Mirrors a sample, so that left becomes right."""
    result = {name: value.flip(-1) for name, value in sample.items()}
    for name, task in tasks.items():
        if task.kind == "normals":
            mirrored = result[name] * torch.tensor([-1, 1, 1])[:, None, None]
            result[name] = _unless_void(result[name], mirrored, task)
    return result


def _unless_void(values: Tensor, changed: Tensor, task: Task) -> Tensor:
    return torch.where(values == task.void, values, changed)


def _finish(sample: Sample, tasks: Mapping[str, Task]) -> Sample:
    """Gives a sample the dtypes that models and losses want, and normalizes the image."""
    labels = {name for name, task in tasks.items() if task.kind == "labels"}
    result = {name: value.to(torch.int64 if name in labels else torch.float32) for name, value in sample.items()}
    image = F.to_dtype(sample["image"], torch.float32, scale=True)
    return result | {"image": F.normalize(image, list(MEAN), list(STD))}
