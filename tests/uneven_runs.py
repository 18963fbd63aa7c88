"""A small run on several processes, which tests compare with the same run in one process."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from many_processes import Ended, launch
from torch import Tensor, nn
from training_runs import run, tiny_config

from inverseform_fast.segmentation import report
from inverseform_fast.segmentation.checkpoint import load_checkpoint
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import Sample, Scenes
from inverseform_fast.segmentation.models import MODELS, SegmentationModel
from inverseform_fast.segmentation.models.heads import Heads
from inverseform_fast.segmentation.training import sharing
from inverseform_fast.segmentation.training.sampling import StepBatches

COUNT = 6  # images
MISSING = (
    "error: process 1 of 3 (counted from 0) ended, was killed (out of memory?), or did nothing for 3 s (--timeout)"
)


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


FIRST_ORDER = [index for index, _ in next(iter(StepBatches(COUNT, TrainConfig(batch_size=COUNT))))]


def learn(config: TrainConfig, stop: int | None = None, **options: Any) -> dict[str, float]:
    """Trains on uneven scenes, up to ``stop`` steps."""
    MODELS["plain"] = Plain
    train_set, eval_set = Uneven("train", (48, 64), COUNT), Scenes("val", (48, 64), 2)
    if stop is not None:
        several = int(os.environ.get("WORLD_SIZE", 1))
        left = [stop * config.batch_size // several + 2 * (several > 1)]  # two images are compared at the start
        read = train_set.read

        def interrupted(index: int) -> Sample:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return read(index)

        train_set.read = interrupted  # type: ignore[method-assign]
    with without_pictures(), patch.object(sharing, "_BLOCK", 1000):  # weights: the model is small
        return run(config, datasets=(train_set, eval_set), **options)


def without_pictures() -> AbstractContextManager[object]:
    """They take too long."""
    return patch.object(report, "draw_rows", lambda *_: None)


def resume(config: TrainConfig, stop: int | None = None) -> None:
    learn(config, stop, resume=True)


def uneven_config(tmp_path: Path, net: str) -> TrainConfig:
    """Makes the configuration of three steps of all images, with a checkpoint after each.

    Boundary F1 is left out: BatchNorm's rounding decides which of nearly equal pixels gets its gradient.
    """
    config = tiny_config(tmp_path, net, steps=3, batch_size=COUNT, optimizer="sgd", lr=0.002, scale=(1.0, 1.0))
    return dataclasses.replace(config, checkpoint_every=1, beta=2.0, gamma=1.0, edge=1.0, dice=1.0, f1=0.0)


def elsewhere(config: TrainConfig, **changes: Any) -> TrainConfig:
    """The same run in another folder."""
    return dataclasses.replace(config, out=f"{config.out}-{len(list(Path(config.out).parent.iterdir()))}", **changes)


def succeed(count: int, config: TrainConfig) -> None:
    ended = launch(count, learn, config, logs=Path(f"{config.out}.logs"))
    assert [process.code for process in ended] == [0] * count, ended


def assert_equal_to_rounding(first: TrainConfig, second: TrainConfig, atol: float = 1e-5) -> None:
    """Asserts that weights and momenta of both runs are the same but for the order of sums."""
    ends = [load_checkpoint(Path(config.out)) for config in (first, second)]
    assert [end.step for end in ends] == [first.steps] * 2
    torch.testing.assert_close(ends[0].model, ends[1].model, rtol=1e-4, atol=atol)
    torch.testing.assert_close(ends[0].optimizer["state"], ends[1].optimizer["state"], rtol=1e-3, atol=1e-3)


def only(ended: Sequence[Ended]) -> str:
    """The one message of processes that all failed."""
    assert all(process.code for process in ended), ended
    messages = [process.error for process in ended if process.error]
    assert len(messages) == 1, ended
    return messages[0]
