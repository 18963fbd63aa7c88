"""What the losses cost: ``python -m benchmarks.studies.headless.cost`` times each alone, with its gradient."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from benchmarks.common.machine import machine
from benchmarks.common.paths import RESULTS
from benchmarks.common.results import Json
from benchmarks.studies.headless.arms import ARMS
from benchmarks.studies.headless.terms import VOID
from inverseform_fast import BoundaryAwareLoss
from inverseform_fast.files import write_atomically
from inverseform_fast.scenes import street

OUT = RESULTS / "headless_cost.json"
SIZES = {"8 x 224x288": (8, 224, 288), "1 x 512x1024": (1, 512, 1024)}
STOCK, STOCK_DICE, OURS = "plain PyTorch: cross-entropy", "plain PyTorch: cross-entropy and Dice", "BoundaryAwareLoss()"
ROUNDS = 5


def stock(logits: Tensor, labels: Tensor, with_dice: bool = False) -> Tensor:
    full = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    loss = F.cross_entropy(full, labels, ignore_index=VOID)
    if not with_dice:
        return loss
    valid = (labels != VOID)[:, None]
    truth = F.one_hot(torch.where(valid[:, 0], labels, 0), logits.shape[1]).movedim(-1, 1) * valid
    predicted = full.softmax(1) * valid
    both, sizes = (predicted * truth).sum((0, 2, 3)), (predicted + truth).sum((0, 2, 3))
    return loss + (1 - 2 * both / sizes)[truth.any(0).flatten(1).any(1)].mean()


def losses(logits: Tensor, boundary: Tensor, labels: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Every arm at its first weights, by the name of the arm, and what they are to be compared with."""
    predictions = {"semantic": logits, "boundary": boundary}
    whole = BoundaryAwareLoss()
    calls: dict[str, Callable[[], Tensor]] = {
        STOCK: lambda: stock(logits, labels),
        STOCK_DICE: lambda: stock(logits, labels, with_dice=True),
        OURS: lambda: whole(logits, labels).total,
    }
    for arm in ARMS.values():
        calls[arm.name] = partial(arm.make(arm.weights[0]), predictions, labels)
    return calls


def measure(count: int, height: int, width: int, rounds: int = ROUNDS) -> dict[str, float]:
    """CPU milliseconds of each loss with its gradient, the least of some rounds, in which all take their turns."""
    generator = Generator().manual_seed(0)
    labels = street.label_maps(count, height, width, generator).long()
    classes = int(labels[labels != VOID].max()) + 1
    low = [-(-side // 4) for side in (height, width)]
    truth = F.one_hot(labels.clamp(max=classes - 1), classes).movedim(-1, 1).float()
    noise = torch.randn(count, classes, *low, generator=generator)
    logits = (4 * F.interpolate(truth, low, mode="area") + noise).requires_grad_()
    boundary = noise[:, :1].clone().requires_grad_()
    least: dict[str, float] = {}
    for _ in range(rounds):
        for name, call in losses(logits, boundary, labels).items():
            begin = time.process_time()
            call().backward()
            least[name] = min(least.get(name, torch.inf), 1000 * (time.process_time() - begin))
    return least


def main() -> None:
    torch.set_num_threads(1)
    result: Json = {"machine": machine(on_gpu=False), "ms": {name: measure(*size) for name, size in SIZES.items()}}
    write_atomically(OUT, lambda file: file.write(json.dumps(result, indent=1).encode() + b"\n"))


if __name__ == "__main__":
    main()
