"""Augmentation keeps image, targets and void together, and depends on PyTorch's global generator alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors

from inverseform_fast.segmentation.datasets import Scenes
from inverseform_fast.segmentation.tasks import SemanticTask, Task
from inverseform_fast.segmentation.tasks.base import Kind
from inverseform_fast.segmentation.transforms import MEAN, STD, EvalTransform, TrainTransform, denormalize

VOID = 255
TASKS: dict[str, Task] = {"semantic": SemanticTask(classes=tuple(map(str, range(11))))}


def colored(labels: Tensor) -> dict[str, Tensor]:
    """Makes a sample whose image shows the label: 200 for void, and steps of 15 above 20 for the classes."""
    value = torch.where(labels == VOID, torch.tensor(200), 20 + 15 * labels.long()).to(torch.uint8)
    return {"image": tv_tensors.Image(value.expand(3, -1, -1).clone()), "semantic": tv_tensors.Mask(labels)}


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return Scenes("train", size=(72, 96), length=1).labels[0]


def label_of(image: Tensor) -> Tensor:
    """Returns the label that a picture made by ``colored`` shows."""
    value = denormalize(image)[0].long()
    return torch.where(value == 200, VOID, torch.div(value - 20, 15, rounding_mode="floor"))


def inside(labels: Tensor, radius: int) -> Tensor:
    """Marks the pixels with no other label, and no edge of the map, within a square of a given radius."""
    value = labels.float()[None, None]
    highest, lowest = (F.max_pool2d(sign * value, 2 * radius + 1, stride=1) * sign for sign in (1, -1))
    return F.pad((highest == lowest)[0, 0], [radius] * 4)


def test_output_is_plain_tensors_for_a_model(labels: Tensor) -> None:
    for transform, size in ((TrainTransform(TASKS, (40, 56)), (40, 56)), (EvalTransform(TASKS), (72, 96))):
        sample = transform(colored(labels))
        assert type(sample["image"]) is type(sample["semantic"]) is Tensor
        assert sample["image"].dtype == torch.float32
        assert sample["image"].shape == (3, *size)
        assert sample["semantic"].dtype == torch.int64
        assert sample["semantic"].shape == size


def test_image_and_label_stay_aligned(labels: Tensor) -> None:
    labels = (
        labels[::8, ::8].repeat_interleave(8, 0).repeat_interleave(8, 1)
    )  # a thin thing would vanish, its colour not
    transform = TrainTransform(TASKS, (64, 64), scale=(0.5, 2.0), jitter=0)
    compared = 0
    for seed in range(20):
        torch.manual_seed(seed)
        sample = transform(colored(labels))
        # Antialiasing mixes the colours at a border of labels, which may lie just outside the crop.
        safe = inside(sample["semantic"], 3)
        safe &= denormalize(sample["image"]).amax(0) > 0
        assert torch.equal(label_of(sample["image"])[safe], sample["semantic"][safe])
        compared += int(safe.sum())
    assert compared > 20_000


def test_crop_and_flip_move_no_pixel_against_its_label(labels: Tensor) -> None:
    transform = TrainTransform(TASKS, (50, 60), scale=(1, 1), jitter=0)
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        sample = transform(colored(labels))
        assert torch.equal(label_of(sample["image"]), sample["semantic"])
        seen.add(sample["semantic"].numpy().tobytes())
    assert len(seen) > 8


@pytest.mark.parametrize("size", [(33, 47), (41, 59), (71, 97), (97, 131), (181, 99)])
def test_resizing_does_not_shift_labels_against_the_image(size: tuple[int, int]) -> None:
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    disk = ((x - 37) ** 2 + (y - 28) ** 2 < 18**2).to(torch.uint8)
    picture = tv_tensors.Image((disk * 200).expand(3, -1, -1).clone())
    out = EvalTransform(TASKS, size)({"image": picture, "semantic": tv_tensors.Mask(disk)})
    light = denormalize(out["image"])[0].double()
    mask = out["semantic"].double()
    for dim, side in enumerate(size):
        position = (torch.arange(side, dtype=torch.double) + 0.5).view(-1, *[1] * (1 - dim))
        shift = (light * position).sum() / light.sum() - (mask * position).sum() / mask.sum()
        assert abs(shift) < 0.2  # pixels; v2.Resize's is about 0.5


def test_padding_is_black_and_void() -> None:
    labels = torch.zeros((20, 30), dtype=torch.uint8)
    tasks: dict[str, Task] = {"semantic": SemanticTask(classes=("a", "b"), void=77)}
    torch.manual_seed(0)
    sample = TrainTransform(tasks, (50, 50), scale=(1, 1), jitter=0)(colored(labels))
    picture, target = denormalize(sample["image"]), sample["semantic"]
    assert (target == 0).sum() == 20 * 30
    assert (target == 77).sum() == 50 * 50 - 20 * 30
    assert (picture[:, target == 77] == 0).all()
    assert (picture[:, target == 0] == 20).all()


def test_void_is_kept(labels: Tensor) -> None:
    assert (labels == VOID).any()
    sample = TrainTransform(TASKS, (72, 96), scale=(1, 1))(colored(labels))
    assert (sample["semantic"] == VOID).sum() == (labels == VOID).sum()


def test_scale_is_drawn_from_its_range() -> None:
    size = []
    square = torch.ones((40, 40), dtype=torch.uint8)
    transform = TrainTransform(TASKS, (100, 100), scale=(0.5, 2.0))
    for seed in range(60):
        torch.manual_seed(seed)
        size.append(int((transform(colored(square))["semantic"] == 1).sum()) ** 0.5 / 40)
    assert 0.5 <= min(size) < 0.65
    assert 1.85 < max(size) <= 2.0


def test_flip_and_jitter_change_what_they_should(labels: Tensor) -> None:
    sample = colored(labels)
    plain = EvalTransform(TASKS)(sample)
    flipped = TrainTransform(TASKS, (72, 96), scale=(1, 1), flip=1, jitter=0)(sample)
    assert torch.equal(flipped["image"], plain["image"].flip(-1))
    assert torch.equal(flipped["semantic"], plain["semantic"].flip(-1))
    torch.manual_seed(0)
    jittered = TrainTransform(TASKS, (72, 96), scale=(1, 1), flip=0)(sample)
    assert not torch.equal(jittered["image"], plain["image"])
    assert torch.equal(jittered["semantic"], plain["semantic"])


def test_samples_are_fixed_by_pytorchs_global_generator_alone() -> None:
    dataset = Scenes("train", size=(48, 64), length=1)
    transform = TrainTransform(TASKS, (40, 40))

    def draw(seed: int, other: int) -> dict[str, Tensor]:
        random.seed(other)
        np.random.seed(other)  # noqa: NPY002
        torch.manual_seed(seed)
        return transform(dataset[0])

    for seed in range(8):
        first, second = draw(seed, 1), draw(seed, 2)
        assert torch.equal(first["image"], second["image"])
        assert torch.equal(first["semantic"], second["semantic"])
    assert not torch.equal(draw(0, 0)["image"], draw(1, 0)["image"])

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    python, numpy = random.getstate(), np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002
    transform(dataset[0])
    assert python == random.getstate()
    assert np.array_equal(numpy, np.random.get_state(legacy=False)["state"]["key"])  # noqa: NPY002


def test_the_sample_of_the_data_set_is_not_changed() -> None:
    dataset = Scenes("train", size=(48, 64), length=1)
    image, labels = dataset.images.clone(), dataset.labels.clone()
    TrainTransform(TASKS, (40, 40))(dataset[0])
    EvalTransform(TASKS)(dataset[0])
    assert torch.equal(dataset.images, image)
    assert torch.equal(dataset.labels, labels)


def test_evaluation_normalizes_by_imagenets_statistics(labels: Tensor) -> None:
    sample = colored(labels)
    out = EvalTransform(TASKS)(sample)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(out["image"], (sample["image"].as_subclass(Tensor) / 255 - mean) / std)
    assert torch.equal(out["semantic"], labels.long())
    assert torch.equal(denormalize(out["image"]), sample["image"].as_subclass(Tensor))
    batch = denormalize(out["image"][None].expand(2, -1, -1, -1))
    assert batch.shape == (2, 3, 72, 96)
    assert batch.dtype == torch.uint8


class Other(Task):
    """A task of some kind; augmentation needs its kind, void and name alone."""

    channels = 1
    loss = decode = metrics = draw = None  # type: ignore[assignment]

    def __init__(self, kind: Kind, void: float) -> None:
        vars(self).update(name=kind, kind=kind, void=void)


KINDS: dict[str, Task] = {task.name: task for task in (Other("depth", 0.0), Other("normals", 9.0), Other("map", -1.0))}


@pytest.fixture
def geometry() -> dict[str, Tensor]:
    """Makes targets with columns 1 .. 40 and void rows 0 to 4; the normals point up and a little to the right."""
    columns = torch.arange(40.0).expand(30, 40) + 1
    depth, single = columns.clone()[None], columns.clone()
    normals = torch.stack((columns / 100, torch.full_like(columns, -1.0), torch.zeros_like(columns)))
    depth[:, :5], normals[:, :5], single[:5] = 0.0, 9.0, -1.0
    image = tv_tensors.Image((columns * 5).to(torch.uint8).expand(3, -1, -1).clone())
    return {"image": image, "depth": depth, "normals": normals, "map": single, "height": columns[None].clone()}


def test_a_flip_negates_the_x_of_normals_and_moves_all_else(geometry: dict[str, Tensor]) -> None:
    flipped = TrainTransform(KINDS, (30, 40), scale=(1, 1), flip=1, jitter=0)(geometry)
    for name in ("depth", "map", "height"):
        assert torch.equal(flipped[name], geometry[name].flip(-1))
    x, y, z = geometry["normals"].flip(-1)
    assert torch.equal(flipped["normals"][:, 5:], torch.stack((-x, y, z))[:, 5:])
    assert (flipped["normals"][:, :5] == 9).all()


def test_a_resize_divides_depth_by_its_scale_in_training_and_no_other_value(geometry: dict[str, Tensor]) -> None:
    half = EvalTransform(KINDS, (15, 20))(geometry)
    assert half["scale"] == 0.5
    assert EvalTransform(KINDS)(geometry).keys() == geometry.keys()
    twice = TrainTransform(KINDS, (60, 80), scale=(2, 2), flip=0)(geometry)
    for resized, scale, columns in ((half, 1, torch.arange(1, 40, 2)), (twice, 2, torch.arange(80) // 2)):
        for name in ("map", "height", "normals"):
            assert torch.equal(resized[name][..., -1, :], geometry[name][..., -1, columns])
        assert torch.equal(resized["depth"][0, -1], geometry["depth"][0, -1, columns] / scale)
        for name, void in (("depth", 0), ("normals", 9), ("map", -1)):
            assert (resized[name][..., 0, :] == void).all()


def test_padding_is_the_void_of_each_task_and_zero_for_other_inputs(geometry: dict[str, Tensor]) -> None:
    padded = TrainTransform(KINDS, (200, 40), scale=(1, 1), flip=0)(geometry)
    shapes = {name: padded[name].shape for name in ("depth", "normals", "map", "height")}
    assert shapes == {"depth": (1, 200, 40), "normals": (3, 200, 40), "map": (200, 40), "height": (1, 200, 40)}
    outside = padded["height"][0] == 0
    assert outside.sum() == 170 * 40
    for name, void in (("depth", 0), ("normals", 9), ("map", -1)):
        assert (padded[name][..., outside] == void).all()
    assert all(value.dtype == torch.float32 for value in padded.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainTransform(TASKS, (0, 4)), r"crop must be a positive \(height, width\), got \(0, 4\)"),
        (lambda: TrainTransform(TASKS, (4, 4), scale=(2.0, 1.0)), "scale must be a positive range"),
        (lambda: TrainTransform(TASKS, (4, 4), scale=(0.0, 1.0)), "scale must be a positive range"),
        (lambda: EvalTransform(TASKS, (4, -1)), r"size must be a positive \(height, width\), got \(4, -1\)"),
    ],
)
def test_a_bad_argument_is_an_error_that_names_it(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image", torch.zeros(3, 8, 8), r"image must be uint8 \(3, H, W\), got Tensor of torch.float32 \(3, 8, 8\)"),
        ("image", torch.zeros(3, 8, 8, dtype=torch.int64), r"image must be uint8 \(3, H, W\), got .* torch.int64"),
        ("image", torch.zeros(8, 8, 3, dtype=torch.uint8), r"image must be uint8 \(3, H, W\), got .* \(8, 8, 3\)"),
        ("image", torch.zeros(4, 8, 8, dtype=torch.uint8), r"image must be uint8 \(3, H, W\), got .* \(4, 8, 8\)"),
        ("image", np.zeros((3, 8, 8), np.uint8), "image must be a tensor, got ndarray: torch.from_numpy makes one"),
        ("semantic", torch.zeros(8, 8), r"semantic must be of an integer dtype, got Tensor of torch.float32 \(8, 8\)"),
        ("semantic", torch.zeros(8, 8, dtype=torch.bool), "semantic must be of an integer dtype, got .* torch.bool"),
        ("semantic", np.zeros((8, 8), np.uint8), "semantic must be a tensor, got ndarray"),
    ],
)
@pytest.mark.parametrize("transform", [EvalTransform(TASKS), TrainTransform(TASKS, (4, 4))], ids=["eval", "train"])
def test_what_would_be_scaled_or_rounded_in_silence_is_named(
    transform: EvalTransform | TrainTransform, name: str, value: Any, message: str
) -> None:
    sample: dict[str, Any] = {
        "image": torch.zeros(3, 8, 8, dtype=torch.uint8),
        "semantic": torch.zeros(8, 8, dtype=torch.uint8),
    }
    assert transform(sample)["semantic"].dtype == torch.int64
    with pytest.raises((TypeError, ValueError), match=message):
        transform(sample | {name: value})


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 1)])
def test_an_image_may_become_a_single_pixel(size: tuple[int, int]) -> None:
    image = torch.full((3, 32, 48), 77, dtype=torch.uint8)
    sample = {"image": image, "semantic": torch.full((32, 48), 4)}
    result = EvalTransform(TASKS, size)(sample)
    assert torch.equal(denormalize(result["image"]), image[:, : size[0], : size[1]])
    assert torch.equal(result["semantic"], sample["semantic"][: size[0], : size[1]])
    padded = TrainTransform(TASKS, (2, 2), scale=(0.01, 0.01), jitter=0)(sample)
    assert sorted(denormalize(padded["image"])[0].flatten().tolist()) == [0, 0, 0, 77]
