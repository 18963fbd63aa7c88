"""Tests of training share the configuration of a small run, and the comparison of the results of two runs."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from inverseform_fast.segmentation.checkpoint import load_checkpoint
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import Sample, Scenes
from inverseform_fast.segmentation.training.run import train


def tiny_config(out: Path, net: str, **changes: Any) -> TrainConfig:
    """Makes a configuration of four steps on three small scenes, into the folder ``out / "run"``."""
    config = TrainConfig(
        data_options={"size": [48, 64], "length": 3},
        backbone="test_resnet",
        boundary_head=True,
        loss="inverseform",
        net=net,
        crop=(32, 48),
        steps=4,
        batch_size=2,
        warmup=1,
        threads=1,
        device="cpu",
        out=str(out / "run"),
    )
    return dataclasses.replace(config, **changes)


def run(config: TrainConfig, **options: Any) -> dict[str, float]:
    """Trains in silence."""
    return train(config, console=Console(file=io.StringIO()), **options)


def interrupted_scenes(config: TrainConfig, batches: int) -> tuple[Scenes, Scenes]:
    """Opens the data sets of ``config``; the first one raises KeyboardInterrupt, as Ctrl-C would, while it reads."""
    left = [batches * config.batch_size]

    class Interrupted(Scenes):
        def read(self, index: int) -> Sample:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return super().read(index)

    return Interrupted("train", **config.data_options), Scenes("val", **config.data_options)


def assert_same_end(first: TrainConfig, second: TrainConfig) -> None:
    """Asserts that weights and optimizer states of both runs are the same bit for bit."""
    ends = [load_checkpoint(Path(config.out)) for config in (first, second)]
    assert [end.step for end in ends] == [first.steps] * 2
    assert _same(ends[0].model, ends[1].model)
    assert _same(ends[0].optimizer, ends[1].optimizer)


def _same(first: Any, second: Any) -> bool:
    """Compares bit for bit, through nested containers."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(value, second[key]) for key, value in first.items())
    if isinstance(first, list):
        return len(first) == len(second) and all(map(_same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def scalars(config: TrainConfig) -> dict[str, dict[int, float]]:
    """Reads what TensorBoard shows of a run: a value for each tag and step."""
    events = EventAccumulator(str(Path(config.out) / "tensorboard")).Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
