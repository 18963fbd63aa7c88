"""The embedded data set makes varied, repeatable label maps of street scenes, and pictures that show them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors

from inverseform_fast.scenes.street import _DRAWS, CLASSES, Painter, _compose, label_maps
from inverseform_fast.segmentation.datasets import Scenes
from inverseform_fast.segmentation.tasks import SemanticTask


def maps(count: int, height: int = 120, width: int = 160, seed: int = 0) -> Tensor:
    return label_maps(count, height, width, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def many() -> Tensor:
    return maps(96)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes("train", size=(96, 128), length=48)


def border(labels: Tensor) -> Tensor:
    """Marks the pixels that differ from the right or the lower neighbour."""
    edge = torch.zeros_like(labels, dtype=torch.bool)
    edge[..., :, :-1] |= labels[..., :, 1:] != labels[..., :, :-1]
    edge[..., :-1, :] |= labels[..., 1:, :] != labels[..., :-1, :]
    return edge


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (33, 90), (90, 33)])
def test_label_maps_of_any_size(size: tuple[int, int]) -> None:
    labels = maps(3, *size)
    assert labels.shape == (3, *size)
    assert labels.dtype == torch.uint8
    assert labels.max() < len(CLASSES)


def test_zero_maps_may_be_asked_for() -> None:
    assert maps(0).shape == (0, 120, 160)


def test_every_class_occurs_with_a_street_like_share(many: Tensor) -> None:
    share = torch.bincount(many.flatten().long(), minlength=len(CLASSES)) / many.numel()
    shares = dict(zip(CLASSES, share.tolist(), strict=True))
    for name in ("sky", "building", "road"):
        assert 0.1 < shares[name] < 0.45
    for name in ("pavement", "tree", "car"):
        assert 0.03 < shares[name] < 0.2
    for name in ("pole", "sign", "fence", "pedestrian", "bicyclist"):
        assert 0.001 < shares[name] < 0.03
    for class_id in range(len(CLASSES)):
        present = (many == class_id).flatten(1).any(1).float().mean()
        assert present > 0.3, f"{CLASSES[class_id]} is in few scenes"


def test_sky_is_above_and_road_below(many: Tensor) -> None:
    rows = torch.arange(many.shape[1], dtype=torch.float)[:, None].expand_as(many[0])
    mean_row = [rows.expand_as(many)[many == class_id].mean() / many.shape[1] for class_id in range(len(CLASSES))]
    assert mean_row[CLASSES.index("sky")] < 0.3
    assert mean_row[CLASSES.index("road")] > 0.7


def test_scenes_are_crowded_and_sparse(many: Tensor) -> None:
    share = border(many).float().mean((1, 2))
    assert 0.02 < share.min() < 0.05
    assert 0.08 < share.max() < 0.2


def test_borders_run_in_every_direction() -> None:
    # The direction of the normal, from the gradient of each blurred class mask of a coarse scene.
    angles = []
    for labels in maps(24, 240, 320):
        mask = (labels == labels[140, 160]).float()[None, None]
        smooth = F.avg_pool2d(mask, 7, stride=1)[0, 0]
        dy, dx = torch.gradient(smooth)
        strong = (dx**2 + dy**2).sqrt() > 0.05
        angles.append(torch.atan2(dy, dx)[strong] % torch.pi)
    histogram = torch.histc(torch.cat(angles), 12, 0, torch.pi)
    assert histogram.min() / histogram.sum() > 0.01


def test_poles_are_thin() -> None:
    labels = maps(48, 240, 320)
    pole = labels == CLASSES.index("pole")
    runs = (pole[..., 1:] & ~pole[..., :-1]).sum()
    assert pole.sum() / runs < 8  # pixels across, on average


def test_the_same_scene_at_another_resolution() -> None:
    coarse, fine = maps(8, 60, 80), maps(8, 240, 320)
    nearest = fine[:, 2::4, 2::4]
    assert (coarse == nearest).float().mean() > 0.97


def test_a_map_depends_on_the_generator_alone() -> None:
    python, torch_state = random.getstate(), torch.get_rng_state()
    numpy = np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002
    first = maps(6)
    assert torch.equal(first, maps(6))
    assert torch.equal(first[:2], maps(2))
    assert not torch.equal(first, maps(6, seed=1))
    assert len({labels.numpy().tobytes() for labels in first}) == 6
    assert python == random.getstate()
    assert np.array_equal(numpy, np.random.get_state(legacy=False)["state"]["key"])  # noqa: NPY002
    assert torch.equal(torch_state, torch.get_rng_state())


def test_the_most_crowded_scene_has_enough_random_numbers() -> None:
    painter = Painter(24, 32, torch.zeros(_DRAWS))  # a draw of 0 says yes to everything that may be there
    _compose(painter)
    assert len(painter.layers) < 256
    assert int(painter.layer.max()) < len(painter.layers)


def test_samples_have_the_interface_of_a_data_set(scenes: Scenes) -> None:
    assert len(scenes) == len(scenes.names) == len(set(scenes.names)) == 48
    task = scenes.tasks["semantic"]
    assert isinstance(task, SemanticTask)
    assert task.void == 255
    assert task.channels == len(task.colors) == len(set(task.colors)) == 11
    sample = scenes[3]
    assert isinstance(sample["image"], tv_tensors.Image)
    assert isinstance(sample["semantic"], tv_tensors.Mask)
    assert sample["image"].shape == (3, 96, 128)
    assert sample["semantic"].shape == (96, 128)
    assert sample["image"].dtype == sample["semantic"].dtype == torch.uint8


def test_a_few_per_cent_are_void_and_the_rest_are_classes(scenes: Scenes) -> None:
    labels = torch.stack([sample["semantic"] for sample in (scenes[i] for i in range(len(scenes)))])
    void = labels == 255
    assert 0.01 < void.float().mean() < 0.06
    assert void.flatten(1).any(1).float().mean() > 0.9
    assert void.flatten(1).float().mean(1).max() < 0.4
    assert labels[~void].max() < 11
    assert len(labels[~void].unique()) == 11


def test_a_scene_depends_on_seed_split_and_index_alone(scenes: Scenes) -> None:
    def make(split: str = "train", **options: Any) -> Scenes:
        return Scenes(split, size=(96, 128), length=4, **options)

    torch.manual_seed(123)
    again = make()
    for i in range(4):
        assert torch.equal(again[i]["image"], scenes[i]["image"])
        assert torch.equal(again[i]["semantic"], scenes[i]["semantic"])
    for other in (make("val"), make("test"), make(seed=1)):
        assert not torch.equal(other.images, again.images)
        assert not torch.equal(other.labels, again.labels)


def test_pictures_show_the_labels(scenes: Scenes) -> None:
    image = scenes.images.float() / 255
    labels = scenes.labels
    assert image.mean() > 0.2
    assert image.mean() < 0.7
    step = (image[..., 1:] - image[..., :-1]).abs().mean(1)
    left, right = labels[..., :-1], labels[..., 1:]
    valid = (left != 255) & (right != 255)
    assert step[valid & (left != right)].mean() > 1.5 * step[valid & (left == right)].mean()
    red, green, blue = (image[:, channel] for channel in range(3))
    seen = {name: labels == class_id for class_id, name in enumerate(CLASSES)}
    assert image.mean(1)[seen["sky"]].mean() > 0.2 + image.mean(1)[seen["road"]].mean()
    assert (green - torch.maximum(red, blue))[seen["tree"]].mean() > 0.05
    assert (red - blue)[seen["bicyclist"]].mean() > 0.2
    # Colour alone does not give the class away: within a class it varies about as much as between the classes.
    colors = image.permute(0, 2, 3, 1)
    within = torch.stack([colors[labels == c].var(0).mean() for c in range(11)])
    between = torch.stack([colors[labels == c].mean(0) for c in range(11)]).var(0).mean()
    assert within.mean() > 0.3 * between


def test_transform_is_applied() -> None:
    dataset = Scenes("val", size=(24, 32), length=1, transform=lambda sample: {"image": sample["image"] * 0})
    assert dataset[0]["image"].max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "split must be one of train, val, test, got 'dev'"),
        ({"split": "val", "size": (0, 10)}, r"size must be \(height, width\) in pixels, got \(0, 10\)"),
        ({"split": "val", "size": 64}, r"size must be \(height, width\) in pixels, got 64"),
        ({"split": "val", "size": "64x96"}, r"size must be \(height, width\) in pixels, got '64x96'"),
        ({"split": "val", "length": 0}, "length must be a whole number, at least 1, got 0"),
        ({"split": "val", "length": 2.5}, "length must be a whole number, at least 1, got 2.5"),
        ({"split": "val", "length": True}, "length must be a whole number, at least 1, got True"),
        ({"split": "val", "length": 10**12}, "length must be a whole number, below 2.31, got 1000000000000"),
        ({"split": "val", "seed": "x"}, "seed must be a whole number, got 'x'"),
        ({"split": "val", "seed": 1.5}, "seed must be a whole number, got 1.5"),
    ],
)
def test_a_bad_argument_is_an_error_that_names_it(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scenes(**options)
