"""Augmentation and preparation of samples; image, labels and void stay together.

Every random number comes from PyTorch's global generator, so that seeding it fixes a sample.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class _Resize(v2.Transform):
    """Images bilinear with antialias, masks by the nearest pixel centre; a subclass sets the size."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, tv_tensors.Mask):
            # v2.Resize takes the pixel below (NEAREST), which moves labels by half a pixel against the image.
            plain = inpt.as_subclass(Tensor)[None]
            resized = F.resize(plain, params["size"], interpolation=InterpolationMode.NEAREST_EXACT)[0]
            return tv_tensors.wrap(resized, like=inpt)
        return F.resize(inpt, params["size"], interpolation=InterpolationMode.BILINEAR, antialias=True)


class _ResizeTo(_Resize):
    """To a size (height, width)."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"size": list(self.size)}


class _RandomScale(_Resize):
    """By a factor drawn uniformly from a range, the same in both directions."""

    def __init__(self, scale: tuple[float, float]) -> None:
        super().__init__()
        self.scale = scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        factor = torch.empty(()).uniform_(*self.scale).item()
        return {"size": [max(1, round(side * factor)) for side in v2.query_size(flat_inputs)]}


def _finish() -> list[v2.Transform]:
    to_float = v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True)
    return [to_float, v2.Normalize(MEAN, STD), v2.ToPureTensor()]


def train_transform(
    crop: tuple[int, int],
    scale: tuple[float, float] = (0.5, 2.0),
    flip: float = 0.5,
    jitter: float = 0.3,
    ignore_index: int = 255,
) -> v2.Compose:
    """Random resizing, crop, horizontal flip and colour jitter, then normalisation.

    Args:
        crop: (height, width) in pixels; where the resized image is smaller it is padded, with 0 before normalisation
            and the labels with ``ignore_index``.
        scale: range of the resizing factor.
        flip: probability of the flip.
        jitter: strength of the change of brightness, contrast and saturation; the hue changes by a tenth of it.
        ignore_index: label of the padding.

    Returns:
        a transform of a sample of ``SegmentationDataset``: image float32 (3, height, width), normalised by ImageNet's
        mean and standard deviation; segmentation int64 (height, width).

    Raises:
        ValueError: a crop or scale that is not positive, or a scale that is no range.
    """
    if min(crop) < 1:
        raise ValueError(f"crop must be a positive (height, width), got {crop}")
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f"scale must be a positive range (lowest, highest), got {scale}")
    return v2.Compose(
        [
            _RandomScale(scale),
            v2.RandomCrop(crop, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: ignore_index}),
            v2.RandomHorizontalFlip(flip),
            v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=jitter / 10),
            *_finish(),
        ]
    )


def eval_transform(size: tuple[int, int] | None = None) -> v2.Compose:
    """Normalisation, after resizing to ``size`` (height, width) if it is given; returns what ``train_transform`` does.

    Raises:
        ValueError: a size that is not positive.
    """
    if size is None:
        return v2.Compose(_finish())
    if min(size) < 1:
        raise ValueError(f"size must be a positive (height, width), got {size}")
    return v2.Compose([_ResizeTo(size), *_finish()])


def denormalize(image: Tensor) -> Tensor:
    """The picture of a normalised image (..., 3, H, W), in the same shape: uint8 RGB."""
    mean, std = (image.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
