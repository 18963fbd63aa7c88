"""A run on several processes gives what one process gives; when one of them fails, all end with one message."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from many_processes import Ended, launch
from torch import Tensor, nn
from training_runs import run, tiny_config

from inverseform_fast.files import locked
from inverseform_fast.segmentation import report
from inverseform_fast.segmentation.checkpoint import load_checkpoint
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import Sample, Scenes
from inverseform_fast.segmentation.models import MODELS, SegmentationModel
from inverseform_fast.segmentation.models.heads import Heads

COUNT = 6  # images


class Uneven(Scenes):
    """Scenes of which, in the first step, two have no valid pixel, and the next two have no boundary."""

    def read(self, index: int) -> Sample:
        sample = super().read(index)
        place = FIRST_ORDER.index(index)
        if place < 2:
            sample["semantic"] = torch.full_like(sample["semantic"], 255)
        elif place < 4:
            sample["semantic"] = torch.full_like(sample["semantic"], place)
        return sample


class Plain(SegmentationModel):
    """A model without BatchNorm, and with dropout."""

    def __init__(self, backbone: str, tasks: Any, *, boundary_head: bool = True, pretrained: bool = False) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 5, stride=4, padding=2)
        self.heads = Heads(8, tasks, boundary_head)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.heads(F.dropout(self.layer(inputs["image"]).relu(), 0.3, self.training), inputs["image"])


def first_order() -> list[int]:
    from inverseform_fast.segmentation.training.sampling import StepBatches

    return [index for index, _ in next(iter(StepBatches(COUNT, TrainConfig(batch_size=COUNT))))]


FIRST_ORDER = first_order()


def learn(config: TrainConfig, stop: int | None = None, **options: Any) -> dict[str, float]:
    """Trains on uneven scenes, up to ``stop`` steps; pictures take too long."""
    MODELS["plain"] = Plain
    report.draw_rows = lambda *_: None  # type: ignore[assignment]
    train_set, eval_set = Uneven("train", (48, 64), COUNT), Scenes("val", (48, 64), 2)
    if stop is not None:
        left = [stop * config.batch_size // int(os.environ.get("WORLD_SIZE", 1))]
        read = train_set.read

        def interrupted(index: int) -> Sample:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return read(index)

        train_set.read = interrupted  # type: ignore[method-assign]
    return run(config, datasets=(train_set, eval_set), **options)


@pytest.fixture
def config(tmp_path: Path, net: str) -> TrainConfig:
    config = tiny_config(tmp_path, net, steps=3, batch_size=COUNT, optimizer="sgd", lr=0.02, scale=(1.0, 1.0))
    return dataclasses.replace(config, checkpoint_every=1, beta=2.0, gamma=1.0)


def elsewhere(config: TrainConfig, **changes: Any) -> TrainConfig:
    """The same run in another folder."""
    return dataclasses.replace(config, out=f"{config.out}-{len(list(Path(config.out).parent.iterdir()))}", **changes)


def succeed(count: int, config: TrainConfig) -> None:
    ended = launch(count, learn, config, logs=Path(f"{config.out}.logs"))
    assert [process.code for process in ended] == [0] * count, ended


def assert_equal_to_rounding(first: TrainConfig, second: TrainConfig) -> None:
    """Asserts that weights, momenta and metrics of both runs are the same but for the order of sums."""
    ends = [load_checkpoint(Path(config.out)) for config in (first, second)]
    assert [end.step for end in ends] == [first.steps] * 2
    torch.testing.assert_close(ends[0].model, ends[1].model, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(ends[0].optimizer["state"], ends[1].optimizer["state"], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("boundary_head", [True, False])
def test_several_processes_train_as_one(config: TrainConfig, count: int, boundary_head: bool) -> None:
    config = dataclasses.replace(config, boundary_head=boundary_head)
    learn(config)
    several = elsewhere(config)
    succeed(count, several)
    assert_equal_to_rounding(config, several)
