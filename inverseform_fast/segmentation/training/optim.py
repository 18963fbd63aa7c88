"""This module makes the optimizer, and the learning rate of each step."""

from __future__ import annotations

from typing import Any

import timm.optim
import torch

from ..config import TrainConfig
from ..models import SegmentationModel


def learning_rate(config: TrainConfig, step: int) -> float:
    """Returns the rate of a step: linear warm-up times polynomial decay to 0 over all steps, in steps of its own."""
    warmup = min(1.0, (step + 1) / (config.warmup + 1))
    done = step // config.decay_every * config.decay_every / config.steps
    return config.lr * warmup * (1 - done) ** config.power


def build_optimizer(model: SegmentationModel, config: TrainConfig) -> torch.optim.Optimizer:
    """Makes the optimizer of the model's parameters; norms and biases get no weight decay."""
    groups = _groups(model, config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    adam = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return adam(groups, lr=config.lr)


def _groups(model: SegmentationModel, decay: float) -> list[dict[str, Any]]:
    """The parameters by their weight decay, and by the factor of their learning rate if the model has any."""
    groups = timm.optim.param_groups_weight_decay(model, decay)
    scales = {model.get_parameter(name): scale for name, scale in model.lr_scales().items()}
    if not scales:
        return groups
    return [
        {**group, "lr_scale": scale, "params": [p for p in group["params"] if scales.get(p, 1.0) == scale]}
        for group in groups
        for scale in sorted({1.0, *scales.values()})
    ]
