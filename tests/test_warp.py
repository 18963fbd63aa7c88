"""A random rotation and scaling moves image and targets alike, and changes depth and normals as it must."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from training_runs import run, tiny_config

from inverseform_fast.segmentation.datasets import Scenes
from inverseform_fast.segmentation.tasks import (
    DepthTask,
    EdgeTask,
    NormalsTask,
    PartsTask,
    SaliencyTask,
    SemanticTask,
    Task,
)
from inverseform_fast.segmentation.transforms import (
    EvalTransform,
    Fill,
    TrainTransform,
    WarpTransform,
    build_augmentation,
    denormalize,
)

NAMES = ["semantic", "parts", "edges", "saliency", "normals", "depth"]
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        SemanticTask(classes=tuple(map(str, range(11)))),
        PartsTask(),
        EdgeTask(),
        SaliencyTask(),
        NormalsTask(),
        DepthTask(),
    )
}
HEIGHT, WIDTH = 60, 90


def changed(
    sample: dict[str, Tensor], angle: float, factor: float, flip: bool = False, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> dict[str, Tensor]:
    tasks = {name: task for name, task in TASKS.items() if name in sample}
    return WarpTransform(tasks, size).change(sample, factor, angle, flip)


def sources(angle: float, factor: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The row and column of the source of each pixel of the result, and whether it lies in the frame, in float64.

    A point of the plane is a complex number with the imaginary axis pointing up, so a turn to the left is a product.
    """
    row, column = np.mgrid[: size[0], : size[1]]
    x = ((column + 0.5) / size[1] - 0.5) * WIDTH
    y = -((row + 0.5) / size[0] - 0.5) * HEIGHT
    point = (x + 1j * y) * np.exp(-1j * math.radians(angle)) / factor
    column, row = point.real + WIDTH / 2 - 0.5, HEIGHT / 2 - point.imag - 0.5
    inside = (np.abs(point.real) <= WIDTH / 2) & (np.abs(point.imag) <= HEIGHT / 2)
    return row, column, inside


def sample_of_numbers() -> dict[str, Tensor]:
    """Makes a sample whose targets are all different, or random where they cannot be, without void."""
    generator = torch.Generator().manual_seed(0)
    shape = (HEIGHT, WIDTH)
    return {
        "image": torch.randint(256, (3, *shape), generator=generator, dtype=torch.uint8),
        "semantic": torch.randint(11, shape, generator=generator, dtype=torch.uint8),
        "parts": torch.randint(7, shape, generator=generator),
        "edges": torch.randint(2, shape, generator=generator).float(),
        "saliency": torch.randint(2, shape, generator=generator).float(),
        "normals": F.normalize(torch.randn((3, *shape), generator=generator), dim=0),
        "depth": torch.arange(1.0, HEIGHT * WIDTH + 1).reshape(shape),
        "hha": torch.arange(3.0 * HEIGHT * WIDTH).reshape(3, *shape),
    }


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (80, 70)])
@pytest.mark.parametrize(("angle", "factor"), [(0, 1.5), (0, 0.77), (17, 1), (-20, 0.8), (90, 1.1), (180, 1.0)])
def test_every_target_comes_from_where_the_rotation_says(angle: float, factor: float, size: tuple[int, int]) -> None:
    sample = sample_of_numbers()
    result = changed(sample, angle, factor, size=size)
    row, column, inside = sources(angle, factor, size)
    near = np.rint(row).clip(0, HEIGHT - 1).astype(int), np.rint(column).clip(0, WIDTH - 1).astype(int)
    clear = (np.abs(row - np.floor(row) - 0.5) > 1e-3) & (np.abs(column - np.floor(column) - 0.5) > 1e-3)
    sure = torch.from_numpy(clear & inside)
    assert sure.sum() > 0.3 * sure.numel()
    scale = factor * math.sqrt(size[0] * size[1] / (HEIGHT * WIDTH))
    for name in ("semantic", "parts", "edges", "saliency", "hha"):
        expected = sample[name].numpy()[..., near[0], near[1]]
        assert torch.equal(result[name][..., sure].double(), torch.from_numpy(expected).double()[..., sure])
    depth = torch.from_numpy(sample["depth"].numpy()[near]) / scale
    torch.testing.assert_close(result["depth"][sure], depth[sure])
    x, y, z = (sample["normals"].double().numpy())[:, near[0], near[1]]
    left = (x + 1j * y) * np.exp(1j * math.radians(angle))
    normals = torch.from_numpy(np.stack((left.real, left.imag, z)))
    torch.testing.assert_close(result["normals"][:, sure].double(), normals[:, sure], rtol=0, atol=1e-5)
    outside = torch.from_numpy(~inside & (np.hypot(row - row.clip(-0.501, HEIGHT - 0.499), 0) + np.hypot(
        column - column.clip(-0.501, WIDTH - 0.499), 0) > 0))  # fmt: skip
    for name, task in TASKS.items():
        assert (result[name][..., outside] == task.void).all()
    assert (result["hha"][..., outside] == 0).all()
    assert (denormalize(result["image"])[:, outside] == 0).all()


def test_without_a_turn_and_a_scale_nothing_changes() -> None:
    dataset = Scenes("train", size=(HEIGHT, WIDTH), length=1, tasks=NAMES)
    result, expected = changed(dataset[0], 0, 1), EvalTransform(TASKS)(dataset[0])
    for name, value in expected.items():
        assert torch.equal(result[name], value), name
    flipped = changed(dataset[0], 0, 1, flip=True)
    mirrored = TrainTransform(TASKS, (HEIGHT, WIDTH), (1, 1), flip=1, jitter=0)(dataset[0])
    for name, value in mirrored.items():
        assert torch.equal(flipped[name], value), name


def test_the_image_turns_with_its_targets_and_is_not_shifted_against_them() -> None:
    y, x = torch.meshgrid(torch.arange(float(HEIGHT)), torch.arange(float(WIDTH)), indexing="ij")
    labels = (((x - 52) / 17) ** 2 + ((y - 26) / 9) ** 2 < 1).to(torch.uint8)
    sample = {"image": (200 * labels).expand(3, -1, -1).clone(), "semantic": labels}
    for seed in range(12):
        torch.manual_seed(seed)
        result = WarpTransform({"semantic": TASKS["semantic"]}, (70, 80), (0.8, 1.3), rotation=30)(sample)
        light, mask = denormalize(result["image"])[0].double(), (result["semantic"] == 1).double()
        assert mask.sum() > 300
        for dim, side in enumerate((70, 80)):
            position = torch.arange(side, dtype=torch.double).view(-1, *[1] * (1 - dim))
            shift = (light * position).sum() / light.sum() - (mask * position).sum() / mask.sum()
            assert abs(shift) < 0.2
        middle = F.max_pool2d(1 - mask[None], 7, 1, 3)[0] == 0
        assert middle.sum() > 50
        assert ((light[middle] - 200).abs() <= 2).all()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("angle", [0.0, 20.0, -75.0])
def test_turned_and_flipped_normals_are_those_of_the_turned_and_flipped_plane(angle: float, flip: bool) -> None:
    """A plane ``n P = d`` has inverse depth that is linear in the pixels; its fit after the transform gives ``n``."""
    normal = np.array([0.36, 0.48, 0.8])  # x right, y up, z towards the camera
    focal = 80.0
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    rays = np.stack(((column + 0.5 - WIDTH / 2) / focal, (HEIGHT / 2 - row - 0.5) / focal, -np.ones((HEIGHT, WIDTH))))
    depth = -5 / np.tensordot(normal, rays, 1)
    assert depth.min() > 0
    sample = {
        "image": torch.zeros((3, HEIGHT, WIDTH), dtype=torch.uint8),
        "depth": torch.from_numpy(depth).float(),
        "normals": torch.from_numpy(normal).float()[:, None, None].expand(3, HEIGHT, WIDTH).clone(),
    }
    result = changed(sample, angle, 1, flip)
    valid = (result["depth"] > 0).numpy()
    inverse = 1 / result["depth"].numpy()[valid].astype(float)
    fit, *_ = np.linalg.lstsq(rays[:, valid].T, inverse, rcond=None)
    expected = -fit / np.linalg.norm(fit)
    found = result["normals"].numpy()[:, valid].astype(float)
    assert np.degrees(np.arccos((expected @ found).clip(-1, 1))).max() < 1.0  # the nearest pixel is half a pixel off
    assert np.ptp(found, axis=1).max() < 1e-6
    turn = np.exp(1j * math.radians(angle)) * (0.36 + 0.48j)
    np.testing.assert_allclose(found[:, 0], [turn.real * (-1 if flip else 1), turn.imag, 0.8], atol=1e-6)


def test_void_stays_void_and_no_value_is_changed_near_it() -> None:
    sample = sample_of_numbers()
    for name, task in TASKS.items():
        sample[name][..., ::2, :] = int(task.void)
    result = changed(sample, 33, 0.9)
    normals, void = result["normals"], result["normals"] == 255
    assert torch.equal(void.all(0), void.any(0))
    torch.testing.assert_close(normals.norm(dim=0)[~void[0]], torch.ones(int((~void[0]).sum())))
    assert torch.equal(void[0], result["depth"] == 0)
    assert torch.equal(void[0], result["semantic"] == 255)


def test_zeros_fill_the_border_as_in_the_public_code() -> None:
    sample = sample_of_numbers()
    void, zero = (
        WarpTransform(TASKS, (HEIGHT, WIDTH), fill=fill).change(sample, 0.75, 20, False) for fill in get_args(Fill)
    )
    outside = void["semantic"] == 255
    assert outside.sum() > 1000
    for name, task in TASKS.items():
        border = zero[name][..., outside]
        assert (border == (task.void if name in ("depth", "normals") else 0)).all()
        assert torch.equal(zero[name][..., ~outside], void[name][..., ~outside])
    sample["parts"].fill_(255)
    assert (
        WarpTransform(TASKS, (60, 90), fill="zero").change(sample, 0.75, 20, False)["parts"] == 255
    ).all()  # without any person


def test_factors_and_angles_are_drawn_from_their_ranges() -> None:
    square = {"image": torch.zeros((3, 50, 50), dtype=torch.uint8), "depth": torch.full((50, 50), 6.0)}
    tasks = {"depth": TASKS["depth"]}

    def factors(**options: Any) -> set[float]:
        transform = WarpTransform(tasks, (50, 50), (0.5, 2.0), **options)
        drawn = []
        for seed in range(60):
            torch.manual_seed(seed)
            drawn.append(round(6 / float(transform(square)["depth"][25, 25]), 4))
        return set(drawn)

    assert factors(scales=[1, 1.2, 1.5]) == {1, 1.2, 1.5}
    uniform = factors()
    assert len(uniform) > 55
    assert 0.5 <= min(uniform) < 0.6
    assert 1.85 < max(uniform) <= 2.0

    up = {"image": square["image"], "normals": torch.tensor([0.0, 1, 0])[:, None, None].expand(3, 50, 50).clone()}
    transform = WarpTransform({"normals": TASKS["normals"]}, (50, 50), (1, 1), rotation=20)
    angles = []
    for seed in range(60):
        torch.manual_seed(seed)
        x, y, _ = transform(up)["normals"][:, 25, 25].tolist()
        angles.append(math.degrees(math.atan2(-x, y)))
    assert -20 <= min(angles) < -17
    assert 17 < max(angles) <= 20


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("warp", {"rotation": -1}, "rotation must be from 0 to 180 degrees, got -1"),
        (
            "warp",
            {"rotation": "far"},
            "arguments of the augmentation 'warp': rotation must be a number",
        ),
        ("warp", {"scales": []}, r"scales must be a list of positive numbers, got \[\]"),
        ("warp", {"scales": [1, 0]}, r"scales must be a list of positive numbers, got \[1, 0\]"),
        ("warp", {"fill": "edge"}, "fill must be 'void' or 'zero', got 'edge'"),
        ("warp", {"flip": 2}, "flip must be a probability from 0 to 1, got 2"),
        ("warp", {"jitter": 0}, "augmentation_options must be arguments of the augmentation 'warp': .*jitter"),
        ("crop", {"rotation": 3}, "augmentation_options must be arguments of the augmentation 'crop': .*rotation"),
        ("crop", {"flip": -0.5}, "flip must be a probability from 0 to 1, got -0.5"),
        ("mixup", {}, "augmentation must be one of crop, warp, got 'mixup'"),
    ],
)
def test_a_bad_option_is_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_augmentation(name, TASKS, (8, 8), (1.0, 2.0), **options)


def test_a_run_is_augmented_as_it_says_and_refuses_bad_options_before_it_writes(tmp_path: Path) -> None:
    plain = dataclasses.replace(tiny_config(tmp_path, "compact"), loss="ce")
    options = {"rotation": 20, "scales": [1, 1.5]}
    warped = dataclasses.replace(plain, augmentation="warp", augmentation_options=options, out=str(tmp_path / "warped"))
    assert run(warped) != run(plain)
    bad = dataclasses.replace(plain, augmentation_options=options, out=str(tmp_path / "bad"))
    with pytest.raises(ValueError, match="arguments of the augmentation 'crop'"):
        run(bad)
    assert not Path(bad.out).exists()
