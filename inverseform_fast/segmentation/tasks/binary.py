"""The base class of tasks that predict a probability for every pixel, and their class-balanced loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import inverseform_fast as iff

from ...checks import VOID, readable
from .base import Kind, Task
from .counted import CountedLoss, divided
from .maps import checked, resized


@dataclass(frozen=True, kw_only=True)
class BinaryTask(Task):
    """Predicts how likely a pixel belongs to something. The target is (H, W) of 0, 1 and ``void``."""

    kind: ClassVar[Kind] = "map"

    @property
    def channels(self) -> int:
        return 1

    def decode(self, prediction: Tensor, size: tuple[int, int]) -> Tensor:
        """Upsamples logits (N, 1, h, w) bilinearly to ``size``; returns probabilities (N, H, W) float32."""
        return resized(prediction, size)[:, 0].sigmoid()

    def draw(self, values: Tensor) -> Tensor:
        """Draws the more the brighter; void is dark blue."""
        grey = (255 * values.clamp(0, 1)).to(torch.uint8)[..., None].repeat(1, 1, 3)
        grey[values == self.void] = torch.tensor((0, 0, 60), dtype=torch.uint8)
        return grey


class BalancedBCE(CountedLoss):
    """Computes the class-balanced binary cross-entropy ``(w L_1 + (1 - w) L_0) / pixels`` of a task.

    ``L_1`` and ``L_0`` are the sums over the pixels whose target is 1 or 0, of the logits upsampled to the target. Void
    counts for nothing, and the loss is 0 with zero gradients if nothing else is there.

    Args:
        task: the task.
        balance: the weight ``w``, 0 to 1; None takes the share of zeros among the batch's valid pixels.
    """

    def __init__(self, task: BinaryTask, balance: float | None) -> None:
        super().__init__()
        self.name, self.void, self.balance = task.name, task.void, balance

    def own_counts(self, targets: Mapping[str, Tensor], step: int) -> tuple[Tensor, Tensor]:
        """Counts the pixels whose target is 1, and those whose target is 0."""
        target = targets[self.name]
        return (target == 1).sum(), (target == 0).sum()

    def terms(
        self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor], step: int, *counts: Tensor
    ) -> dict[str, Tensor]:
        """Computes the term ``"total"``.

        Raises:
            TypeError: the logits are of no floating-point dtype.
            ValueError: a shape is wrong, or the target has another value; the values are looked at on a CPU only.
        """
        logits, target = checked(self.name, 1, predictions, targets)
        one, zero = target == 1, target == 0
        if readable(target) and not bool((known := one | zero | (target == self.void)).all()):
            other = float(target[~known][0])
            raise ValueError(f"target of {self.name} must hold 0, 1 and {self.void:g} (void), got {other:g}")
        ones, zeros = counts
        weight = divided(zeros, ones + zeros) if self.balance is None else torch.full_like(ones, self.balance)
        weights = torch.stack((1 - weight, weight))
        # The op's cross-entropy of the two logits 0 and z is the binary one of z. Its mean is divided by the sum of the
        # weights.
        logits = torch.cat((torch.zeros_like(logits), logits), 1)
        labels = torch.where(one | zero, target, VOID).to(torch.uint8)
        mean = iff.functional.segmentation_loss(logits, labels, weights, VOID)
        return {"total": divided(mean * (weights * torch.stack((zero.sum(), one.sum()))).sum(), ones + zeros)}
