"""This module makes the optimizer, and the learning rate of each step."""

from __future__ import annotations

import timm.optim
import torch
from torch import nn

from ..config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """Returns the rate of a step: linear warm-up times polynomial decay to 0 over all steps."""
    warmup = min(1.0, (step + 1) / (config.warmup + 1))
    return config.lr * warmup * (1 - step / config.steps) ** config.power


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Makes AdamW or SGD for the model's parameters; norms and biases get no weight decay."""
    groups = timm.optim.param_groups_weight_decay(model, config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=config.lr)
