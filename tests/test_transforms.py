"""Augmentation keeps image, labels and void together, and depends on PyTorch's global generator alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors

from inverseform_fast.segmentation.datasets import Scenes
from inverseform_fast.segmentation.transforms import MEAN, STD, denormalize, eval_transform, train_transform

VOID = 255


def colored(labels: Tensor) -> dict[str, Tensor]:
    """A sample whose image shows the label: 200 for void, and steps of 15 above 20 for the classes."""
    value = torch.where(labels == VOID, torch.tensor(200), 20 + 15 * labels.long()).to(torch.uint8)
    return {"image": tv_tensors.Image(value.expand(3, -1, -1).clone()), "segmentation": tv_tensors.Mask(labels)}


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return Scenes("train", size=(72, 96), length=1).labels[0]


def label_of(image: Tensor) -> Tensor:
    """The label that a picture made by ``colored`` shows."""
    value = denormalize(image)[0].long()
    return torch.where(value == 200, VOID, torch.div(value - 20, 15, rounding_mode="floor"))


def inside(labels: Tensor, radius: int) -> Tensor:
    """Pixels with no other label, and no edge of the map, within a square of some radius."""
    value = labels.float()[None, None]
    highest, lowest = (F.max_pool2d(sign * value, 2 * radius + 1, stride=1) * sign for sign in (1, -1))
    return F.pad((highest == lowest)[0, 0], [radius] * 4)


def test_output_is_plain_tensors_for_a_model(labels: Tensor) -> None:
    for transform, size in ((train_transform((40, 56)), (40, 56)), (eval_transform(), (72, 96))):
        sample = transform(colored(labels))
        assert type(sample["image"]) is type(sample["segmentation"]) is Tensor
        assert sample["image"].dtype == torch.float32
        assert sample["image"].shape == (3, *size)
        assert sample["segmentation"].dtype == torch.int64
        assert sample["segmentation"].shape == size


def test_pairs_stay_aligned(labels: Tensor) -> None:
    labels = (
        labels[::8, ::8].repeat_interleave(8, 0).repeat_interleave(8, 1)
    )  # a thin thing would vanish, its colour not
    transform = train_transform((64, 64), scale=(0.5, 2.0), jitter=0)
    compared = 0
    for seed in range(20):
        torch.manual_seed(seed)
        sample = transform(colored(labels))
        # Antialiasing mixes the colours at a border of labels, which may lie just outside the crop.
        safe = inside(sample["segmentation"], 3)
        safe &= denormalize(sample["image"]).amax(0) > 0
        assert torch.equal(label_of(sample["image"])[safe], sample["segmentation"][safe])
        compared += int(safe.sum())
    assert compared > 20_000


def test_crop_and_flip_move_no_pixel_against_its_label(labels: Tensor) -> None:
    transform = train_transform((50, 60), scale=(1, 1), jitter=0)
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        sample = transform(colored(labels))
        assert torch.equal(label_of(sample["image"]), sample["segmentation"])
        seen.add(sample["segmentation"].numpy().tobytes())
    assert len(seen) > 8


@pytest.mark.parametrize("size", [(33, 47), (41, 59), (71, 97), (97, 131), (181, 99)])
def test_resizing_does_not_shift_labels_against_the_image(size: tuple[int, int]) -> None:
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    disk = ((x - 37) ** 2 + (y - 28) ** 2 < 18**2).to(torch.uint8)
    picture = tv_tensors.Image((disk * 200).expand(3, -1, -1).clone())
    out = eval_transform(size)({"image": picture, "segmentation": tv_tensors.Mask(disk)})
    light = denormalize(out["image"])[0].double()
    mask = out["segmentation"].double()
    for dim, side in enumerate(size):
        position = (torch.arange(side, dtype=torch.double) + 0.5).view(-1, *[1] * (1 - dim))
        shift = (light * position).sum() / light.sum() - (mask * position).sum() / mask.sum()
        assert abs(shift) < 0.2  # pixels; v2.Resize's is about 0.5


def test_padding_is_black_and_void() -> None:
    labels = torch.zeros((20, 30), dtype=torch.uint8)
    torch.manual_seed(0)
    sample = train_transform((50, 50), scale=(1, 1), jitter=0, ignore_index=77)(colored(labels))
    picture, target = denormalize(sample["image"]), sample["segmentation"]
    assert (target == 0).sum() == 20 * 30
    assert (target == 77).sum() == 50 * 50 - 20 * 30
    assert (picture[:, target == 77] == 0).all()
    assert (picture[:, target == 0] == 20).all()


def test_void_is_kept(labels: Tensor) -> None:
    assert (labels == VOID).any()
    sample = train_transform((72, 96), scale=(1, 1))(colored(labels))
    assert (sample["segmentation"] == VOID).sum() == (labels == VOID).sum()


def test_scale_is_drawn_from_its_range() -> None:
    size = []
    square = torch.ones((40, 40), dtype=torch.uint8)
    transform = train_transform((100, 100), scale=(0.5, 2.0))
    for seed in range(60):
        torch.manual_seed(seed)
        size.append(int((transform(colored(square))["segmentation"] == 1).sum()) ** 0.5 / 40)
    assert 0.5 <= min(size) < 0.65
    assert 1.85 < max(size) <= 2.0


def test_flip_and_jitter_change_what_they_should(labels: Tensor) -> None:
    sample = colored(labels)
    plain = eval_transform()(sample)
    flipped = train_transform((72, 96), scale=(1, 1), flip=1, jitter=0)(sample)
    assert torch.equal(flipped["image"], plain["image"].flip(-1))
    assert torch.equal(flipped["segmentation"], plain["segmentation"].flip(-1))
    torch.manual_seed(0)
    jittered = train_transform((72, 96), scale=(1, 1), flip=0)(sample)
    assert not torch.equal(jittered["image"], plain["image"])
    assert torch.equal(jittered["segmentation"], plain["segmentation"])


def test_samples_are_fixed_by_pytorchs_global_generator_alone() -> None:
    dataset = Scenes("train", size=(48, 64), length=1)
    transform = train_transform((40, 40))

    def draw(seed: int, other: int) -> dict[str, Tensor]:
        random.seed(other)
        np.random.seed(other)  # noqa: NPY002
        torch.manual_seed(seed)
        return transform(dataset[0])

    for seed in range(8):
        first, second = draw(seed, 1), draw(seed, 2)
        assert torch.equal(first["image"], second["image"])
        assert torch.equal(first["segmentation"], second["segmentation"])
    assert not torch.equal(draw(0, 0)["image"], draw(1, 0)["image"])

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    python, numpy = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    transform(dataset[0])
    assert python == random.getstate()
    assert np.array_equal(numpy, np.random.get_state()[1])  # noqa: NPY002


def test_the_sample_of_the_data_set_is_not_changed() -> None:
    dataset = Scenes("train", size=(48, 64), length=1)
    image, labels = dataset.images.clone(), dataset.labels.clone()
    train_transform((40, 40))(dataset[0])
    eval_transform()(dataset[0])
    assert torch.equal(dataset.images, image)
    assert torch.equal(dataset.labels, labels)


def test_evaluation_normalises_by_imagenets_statistics(labels: Tensor) -> None:
    sample = colored(labels)
    out = eval_transform()(sample)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(out["image"], (sample["image"].as_subclass(Tensor) / 255 - mean) / std)
    assert torch.equal(out["segmentation"], labels.long())
    assert torch.equal(denormalize(out["image"]), sample["image"].as_subclass(Tensor))
    batch = denormalize(out["image"][None].expand(2, -1, -1, -1))
    assert batch.shape == (2, 3, 72, 96)
    assert batch.dtype == torch.uint8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: train_transform((0, 4)), r"crop must be a positive \(height, width\), got \(0, 4\)"),
        (lambda: train_transform((4, 4), scale=(2.0, 1.0)), "scale must be a positive range"),
        (lambda: train_transform((4, 4), scale=(0.0, 1.0)), "scale must be a positive range"),
        (lambda: eval_transform((4, -1)), r"size must be a positive \(height, width\), got \(4, -1\)"),
    ],
)
def test_bad_arguments(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
