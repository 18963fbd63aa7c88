"""Samples are augmented and prepared so that image, targets and void stay together.

Every random number comes from PyTorch's global generator, so seeding it fixes a sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from ..checks import LABEL_DTYPES, check_choice, check_number, check_tensor, shown
from .datasets import Sample
from .tasks import Task

Fill = Literal["void", "zero"]
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
        _check_scale(scale)
        self.tasks, self.scale, self.flip = tasks, scale, _probability(flip)
        self.crop = v2.RandomCrop(crop, pad_if_needed=True)
        self.jitter = v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=jitter / 10)

    def __call__(self, sample: Sample) -> Sample:
        sample = _plain(sample, self.tasks)
        factor = torch.empty(()).uniform_(*self.scale).item()
        height, width = (max(1, round(side * factor)) for side in sample["image"].shape[-2:])
        scale = _scale(sample["image"], (height, width))
        sample = _nearer(_resize(sample, (height, width)), self.tasks, scale)
        sample = _crop(sample, self.tasks, self.crop.make_params([sample["image"]]))
        if torch.rand(1) < self.flip:
            sample = _flip(sample, self.tasks)
        return _finish(sample | {"image": self.jitter(sample["image"])}, self.tasks)


class WarpTransform:
    """Turns and scales a sample about its center at random, flips it, and prepares it as :class:`EvalTransform` does.

    Public multi-task code augments in this way. The frame keeps its place, so a factor above 1 cuts off what leaves it,
    and one below 1 leaves a border where nothing is brought in. The frame is resized to ``size`` in the same step. The
    image is interpolated bicubically, all else is taken from the nearest pixel, and colors stay as they are.

    Args:
        tasks: the tasks of the sample's targets, by name; a task's kind says how augmentation changes its values.
        size: (height, width) of the result in pixels.
        scale: smallest and largest factor.
        scales: the factors to choose from; any number within ``scale`` if not given.
        rotation: largest angle, in degrees and in either direction.
        flip: probability of the horizontal flip.
        fill: what targets have in the border: "void", or "zero", which is class 0, no edge and nothing salient, as in
            the public code. Depth and normals are void there in any case, and so is a target without a truth.

    Raises:
        ValueError: a number is out of its range, ``fill`` is neither of these; or an image is not uint8 (3, H, W), or
            labels are no integers.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        size: tuple[int, int],
        scale: tuple[float, float] = (0.75, 1.25),
        *,
        scales: Sequence[float] | None = None,
        rotation: float = 0.0,
        flip: float = 0.5,
        fill: Fill = "void",
    ) -> None:
        if min(size) < 1:
            raise ValueError(f"size must be a positive (height, width), got {size}")
        _check_scale(scale)
        if scales is not None and (
            not isinstance(scales, Sequence) or not scales or not all(check_number(s, "scales") > 0 for s in scales)
        ):
            raise ValueError(f"scales must be a list of positive numbers, got {shown(scales)}")
        if not 0 <= check_number(rotation, "rotation") <= 180:
            raise ValueError(f"rotation must be from 0 to 180 degrees, got {rotation}")
        check_choice(fill, "fill", get_args(Fill))
        self.tasks, self.size, self.scale, self.scales = tasks, size, scale, scales
        self.rotation, self.flip, self.fill = rotation, _probability(flip), fill

    def __call__(self, sample: Sample) -> Sample:
        factor = torch.empty(()).uniform_(*self.scale).item()
        if self.scales is not None:
            factor = self.scales[int(torch.randint(len(self.scales), ()))]
        angle = torch.empty(()).uniform_(-self.rotation, self.rotation).item()
        return self.change(sample, factor, angle, bool(torch.rand(1) < self.flip))

    def change(self, sample: Sample, factor: float, angle: float, flip: bool) -> Sample:
        """Scales by ``factor``, turns to the left by ``angle`` degrees, then flips, and prepares the sample."""
        sample = _plain(sample, self.tasks)
        scale, angle = factor * _scale(sample["image"], self.size), math.radians(angle)
        sample = _warp(sample, self.tasks, self.size, factor, angle, self.fill)
        sample = _nearer(_turn(sample, self.tasks, angle), self.tasks, scale)
        return _finish(_flip(sample, self.tasks) if flip else sample, self.tasks)


AUGMENTATIONS: dict[str, type[TrainTransform | WarpTransform]] = {"crop": TrainTransform, "warp": WarpTransform}


def build_augmentation(
    name: str, tasks: Mapping[str, Task], size: tuple[int, int], scale: tuple[float, float], **options: Any
) -> TrainTransform | WarpTransform:
    """Makes an augmentation of the registry.

    Args:
        name: a key of ``AUGMENTATIONS``.
        tasks, size, scale, options: arguments of its class.

    Raises:
        ValueError: the name or an option is unknown, or a value is bad.
    """
    if name not in AUGMENTATIONS:
        raise ValueError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, got {name!r}")
    try:
        return AUGMENTATIONS[name](tasks, size, scale, **options)
    except TypeError as error:
        raise ValueError(f"augmentation_options must be arguments of the augmentation {name!r}: {error}") from error


def denormalize(image: Tensor) -> Tensor:
    """Turns a normalized image (..., 3, H, W) back into a picture of the same shape, uint8 RGB."""
    mean, std = (image.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _check_scale(scale: tuple[float, float]) -> None:
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f"scale must be a positive range (lowest, highest), got {scale}")


def _probability(flip: float) -> float:
    if not 0 <= check_number(flip, "flip") <= 1:
        raise ValueError(f"flip must be a probability from 0 to 1, got {flip}")
    return flip


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


def _warp(
    sample: Sample, tasks: Mapping[str, Task], size: tuple[int, int], factor: float, angle: float, fill: Fill
) -> Sample:
    """Scales the content by ``factor`` and turns it to the left by ``angle`` (radians) about the center of the frame,
    which is resized to ``size``.
    """
    height, width = sample["image"].shape[-2:]
    cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
    # From the result to the source, in units of half the frame, x to the right and y down.
    theta = torch.tensor([[[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]])
    grid = torch.nn.functional.affine_grid(theta, [1, 1, *size], align_corners=False)
    outside = (grid.abs() > 1).any(-1)[0]

    def moved(value: Tensor, mode: str) -> Tensor:
        planes = value.reshape(1, -1, *value.shape[-2:]).float()
        planes = torch.nn.functional.grid_sample(planes, grid, mode, padding_mode="border", align_corners=False)
        return planes.reshape(*value.shape[:-2], *size)

    image = moved(sample["image"], "bicubic").round().clamp(0, 255).masked_fill(outside, 0)
    result = {"image": image.to(torch.uint8)}
    for name, value in sample.items():
        if name != "image":
            border = _border(value, tasks[name], fill) if name in tasks else 0
            result[name] = moved(value, "nearest").masked_fill(outside, border).to(value.dtype)
    return result


def _border(value: Tensor, task: Task, fill: Fill) -> float:
    """What a target has where nothing is brought in."""
    has_zero = task.kind in ("labels", "map") and bool((value != task.void).any())
    return 0 if fill == "zero" and has_zero else task.void


def _nearer(sample: Sample, tasks: Mapping[str, Task], scale: float) -> Sample:
    """Divides depth by the scale of the image: an object that is twice as large looks half as far away."""
    result = dict(sample)
    for name, task in tasks.items():
        if task.kind == "depth":
            result[name] = _unless_void(sample[name], sample[name] / scale, task)
    return result


def _turn(sample: Sample, tasks: Mapping[str, Task], angle: float) -> Sample:
    """Turns normals to the left by ``angle`` (radians), as the image was."""
    result = dict(sample)
    for name, task in tasks.items():
        if task.kind == "normals":
            x, y, z = sample[name]
            cos, sin = math.cos(angle), math.sin(angle)
            turned = torch.stack((cos * x - sin * y, sin * x + cos * y, z))
            result[name] = _unless_void(sample[name], turned, task)
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
