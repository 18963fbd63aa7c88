"""Batches, augmentation and the learning rate are functions of the configuration and the step alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import Scenes
from inverseform_fast.segmentation.models import build_model
from inverseform_fast.segmentation.tasks import SemanticTask
from inverseform_fast.segmentation.training.optim import build_optimizer, learning_rate
from inverseform_fast.segmentation.training.sampling import SeededSamples, StepBatches
from inverseform_fast.segmentation.transforms import TrainTransform


def test_the_learning_rate_warms_up_then_decays() -> None:
    config = TrainConfig(steps=100, lr=1.0, warmup=9, power=0.9)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 4) == pytest.approx(0.5 * 0.96**0.9)
    assert learning_rate(config, 50) == pytest.approx(0.5**0.9)
    assert 0 < learning_rate(config, 99) < 0.02


def test_the_learning_rate_may_decay_once_in_an_epoch() -> None:
    config = TrainConfig(steps=100, lr=1.0, warmup=0, power=0.9, decay_every=25)
    assert [learning_rate(config, step) for step in range(100)] == pytest.approx(
        [(1 - epoch / 4) ** 0.9 for epoch in range(4) for _ in range(25)]
    )


def test_adams_weight_decay_is_part_of_the_gradient() -> None:
    model = build_model("pyramid", "test_resnet", {"semantic": SemanticTask(classes=("a", "b"))})
    decaying = next(p for p in model.parameters() if p.ndim > 1)
    before = decaying.detach().clone()
    config = TrainConfig(optimizer="adam", lr=0.1, weight_decay=0.5)
    optimizer = build_optimizer(model, config)
    decaying.grad = torch.zeros_like(decaying)
    optimizer.step()
    # Adam's first step is the sign of the gradient, which is the decay's alone; AdamW would multiply by 0.95.
    torch.testing.assert_close(decaying.detach(), before - 0.1 * before.sign(), atol=1e-4, rtol=1e-4)


def test_batches_are_a_function_of_seed_and_step() -> None:
    config = TrainConfig(steps=10, batch_size=3, seed=5)
    batches = list(StepBatches(7, config))
    assert list(StepBatches(7, config, first=4)) == batches[4:]
    assert list(StepBatches(7, dataclasses.replace(config, seed=6))) != batches
    indices = [index for batch in batches for index, _ in batch]
    for epoch in range(4):  # every pass sees each sample once, in an order of its own
        assert sorted(indices[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert indices[:7] != indices[7:14]
    seeds = [seed for batch in batches for _, seed in batch]
    assert len(set(seeds)) == len(seeds)


def test_augmentation_depends_on_the_key_alone_and_leaves_no_trace() -> None:
    scenes = Scenes("train", size=(48, 64), length=2)
    samples = SeededSamples(scenes, TrainTransform(scenes.tasks, (32, 32)))
    torch.manual_seed(1)
    first = samples[(0, 123)]
    after = torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(()))
    again, other = samples[(0, 123)], samples[(0, 124)]
    assert torch.equal(first["image"], again["image"])
    assert not torch.equal(first["image"], other["image"])
