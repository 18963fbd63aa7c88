"""The scenes' targets of all tasks agree with the geometry of their camera, with their classes, and with each other."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from inverseform_fast.scenes import geometry
from inverseform_fast.scenes.street import BICYCLIST, BUILDING, CAR, PEDESTRIAN, SKY, Painter, paint_street
from inverseform_fast.segmentation.datasets import Sample, Scenes
from inverseform_fast.segmentation.metrics.edges import thin
from inverseform_fast.segmentation.transforms import EvalTransform, TrainTransform

NAMES = ["semantic", "parts", "edges", "saliency", "normals", "depth"]


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes("train", size=(96, 128), length=16, tasks=NAMES)


@pytest.fixture(scope="module")
def samples(scenes: Scenes) -> list[Sample]:
    return [{name: value.as_subclass(Tensor) for name, value in scenes[i].items()} for i in range(len(scenes))]


def painters(count: int = 6, size: tuple[int, int] = (120, 160)) -> list[Painter]:
    return [paint_street(*size, torch.Generator().manual_seed(seed)) for seed in range(count)]


def points_of(painter: Painter) -> Tensor:
    """The points (3, height, width) that the pixels show, for the camera: x right, y up, z towards it."""
    center_x = painter.cos * painter.vanish - painter.sin * painter.horizon
    center_y = painter.sin * painter.vanish + painter.cos * painter.horizon
    rays = torch.stack(
        torch.broadcast_tensors(painter.x - center_x, center_y - painter.y, torch.tensor(-painter.focal))
    )
    return rays.double() * geometry.depth(painter).double() / painter.focal


def test_what_a_thing_shows_lies_in_a_plane_of_its_normal() -> None:
    seen = set()
    for painter in painters():
        points, normals = points_of(painter), geometry.normals(painter).double()
        torch.testing.assert_close(normals.norm(dim=0), torch.ones(120, 160, dtype=torch.float64))
        distance = (points * normals).sum(0)
        for index in painter.layer.unique().tolist():
            shown = (painter.layer == index) & points.isfinite().all(0)
            for normal in normals[:, shown].unique(dim=1).T:
                turned = shown & (normals == normal[:, None, None]).all(0)
                assert distance[turned].std(correction=0) < 1e-4 * distance[turned].abs().mean()
                assert distance[turned].max() < 0  # it is turned to the camera
                seen.add((painter.layers[index].material, tuple(normal.abs().round().tolist())))
    assert {(BUILDING, (1.0, 0.0, 0.0)), (BUILDING, (0.0, 0.0, 1.0)), (CAR, (0.0, 0.0, 1.0))} < seen


def test_the_ground_is_as_far_below_as_the_eye_is_high_and_things_stand_on_it() -> None:
    for painter in painters():
        points = points_of(painter)
        x, y, z = points
        height = y * painter.cos + x * painter.sin  # the camera rolls about its axis
        materials = torch.tensor([layer.material for layer in painter.layers])[painter.layer.long()]
        lies = torch.tensor([layer.plane[2] > 0 for layer in painter.layers])[painter.layer.long()] & z.isfinite()
        assert (height[lies] + painter.eye).abs().max() < 1e-3 * painter.eye + 1e-5 * z[lies].abs().max()
        cars = materials == CAR
        if cars.sum() > 50:
            assert -0.1 < (height[cars] + painter.eye).min() < (height[cars] + painter.eye).max() < 2.2  # metres


def test_sky_and_skylines_have_no_depth() -> None:
    for painter in painters():
        depth = geometry.depth(painter)
        assert depth[painter.labels() == SKY].isinf().all()
        assert (depth > 0.5).all()
    materials = [layer.material for painter in painters() for layer in painter.layers if layer.near == torch.inf]
    assert len(set(materials)) > 1


def test_the_other_targets_change_neither_image_nor_classes(scenes: Scenes) -> None:
    alone = Scenes("train", size=(96, 128), length=16)
    assert torch.equal(alone.images, scenes.images)
    assert torch.equal(alone.labels, scenes.labels)
    assert list(alone[0]) == ["image", "semantic"]


def test_targets_have_the_form_of_their_tasks_in_the_order_asked(scenes: Scenes, samples: list[Sample]) -> None:
    assert list(scenes.tasks) == NAMES
    assert list(Scenes("val", length=1, size=(8, 8), tasks=("depth", "semantic")).tasks) == ["depth", "semantic"]
    assert list(Scenes("val", length=1, size=(8, 8), tasks=["edges"])[0]) == ["image", "edges"]
    shapes = {name: tuple(value.shape) for name, value in samples[0].items()}
    assert shapes == dict.fromkeys(NAMES, (96, 128)) | {"image": (3, 96, 128), "normals": (3, 96, 128)}
    for transform in (EvalTransform(scenes.tasks), TrainTransform(scenes.tasks, (64, 80))):
        result = transform(scenes[0])
        assert {name: result[name].dtype for name in NAMES if result[name].dtype != torch.float32} == {
            "semantic": torch.int64,
            "parts": torch.int64,
        }


def test_depth_is_void_beyond_eighty_metres_and_normals_with_it(samples: list[Sample]) -> None:
    for sample in samples:
        depth, normals = sample["depth"], sample["normals"]
        assert depth.max() <= 80
        assert depth[depth > 0].min() > 0.5
        void = normals == 255
        assert torch.equal(void.all(0), void.any(0))
        assert torch.equal(void.all(0), depth == 0)
        assert (depth[sample["semantic"] == SKY] == 0).all()
    assert torch.stack([sample["depth"] > 0 for sample in samples]).float().mean() > 0.5


def test_parts_are_those_of_the_pedestrians(samples: list[Sample]) -> None:
    assert {bool((sample["parts"] == 255).all()) for sample in samples} == {True, False}
    heights: list[list[Tensor]] = [[] for _ in geometry.PARTS]
    rows = torch.arange(96.0)[:, None].expand(96, 128)
    for sample in samples:
        parts, known = sample["parts"], sample["semantic"] != 255
        pedestrian = sample["semantic"] == PEDESTRIAN
        if (parts == 255).all():
            assert not pedestrian.any()
            continue
        assert torch.equal(parts[known] > 0, pedestrian[known])
        for part in parts.unique().tolist():
            heights[part].append(rows[parts == part])
    assert all(heights)
    _, head, torso, upper_arm, lower_arm, upper_leg, lower_leg = (torch.cat(each).mean() for each in heights)
    assert head < torso < upper_leg < lower_leg
    assert upper_arm < lower_arm < lower_leg


def test_people_and_vehicles_are_salient(samples: list[Sample]) -> None:
    for sample in samples:
        known = sample["semantic"] != 255
        expected = (sample["semantic"][..., None] == torch.tensor([CAR, PEDESTRIAN, BICYCLIST])).any(-1)
        assert torch.equal(sample["saliency"][known], expected[known].float())


def test_edges_are_thin_and_follow_the_borders_of_the_classes() -> None:
    size = (72, 96)
    dataset = Scenes("train", size=size, length=4, tasks=["edges"])
    for sample, labels, void in ((dataset[i]["edges"], dataset.labels[i], dataset.labels[i] == 255) for i in range(4)):
        edges = sample.as_subclass(Tensor)
        assert set(edges.unique().tolist()) == {0, 1}
        assert torch.equal(thin(edges == 1), edges == 1)
        value = labels.float()[None, None]
        border = (F.max_pool2d(value, 3, 1, 1) != -F.max_pool2d(-value, 3, 1, 1))[0, 0]
        near_void = F.max_pool2d(void.float()[None, None], 5, 1, 2)[0, 0] > 0
        assert border[(edges == 1) & ~near_void].all()
        away = ndimage.distance_transform_edt(edges.numpy() == 0)
        assert (away[(border & ~near_void).numpy()] < 2).mean() > 0.9


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (
            ["semantic", "flow"],
            "tasks must be a list of semantic, parts, edges, saliency, normals, depth, got ['semantic'",
        ),
        ("depth", "tasks must be a list of semantic, parts, edges, saliency, normals, depth, got 'depth'"),
        (7, "tasks must be a list of semantic, parts, edges, saliency, normals, depth, got 7"),
        ([], "tasks must be one or more of different names, got []"),
        (["depth", "depth"], "tasks must be one or more of different names, got ['depth', 'depth']"),
    ],
)
def test_bad_tasks_are_named(tasks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Scenes("val", size=(8, 8), length=1, tasks=tasks)
