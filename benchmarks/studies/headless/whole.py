"""The same losses where the whole model is trained, not only its head, by the package's own trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from benchmarks.common.results import Json
from benchmarks.studies.headless import arms as frozen
from benchmarks.studies.headless.arms import Arm, Loss, each
from benchmarks.studies.headless.study import Job, Study
from inverseform_fast.segmentation.checkpoint import CHECKPOINT
from inverseform_fast.segmentation.models.lite0 import LITE0
from inverseform_fast.segmentation.training.run import train

SEEDS = tuple(range(6))
SCHEDULE: Json = {
    "backbone": LITE0, "pretrained": True, "crop": (224, 224), "steps": 500, "batch_size": 8, "amp": "bf16",
    "checkpoint_every": 50,
}  # fmt: skip
ARMS = {
    name: replace(frozen.ARMS[name], weights=weights, main=True)
    for name, weights in {
        "ce": ((),),
        "dice-edge-f1": ((4, 4, 16), (1, 1, 4)),
        "dice": each(8, 1),
        "dice-edge": ((2, 4), (1, 1)),
        "lovasz": each(4, 1),
        "boundary-f1": each(16, 4),
        "with-inverseform": each(0.1),
    }.items()
}


class Criterion(nn.Module):
    """A loss as the trainer calls it."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        return {"total": self.loss(predictions, targets["semantic"])}


@dataclass
class WholeStudy(Study):
    """All layers of Lite0 are trained, on random crops, and whole frames are scored at their own size.

    A training leaves its state in a folder of ``runs``, from which the next call goes on if this one is interrupted.
    """

    runs: Path = Path("runs/headless_whole")
    schedule: Json = field(default_factory=lambda: SCHEDULE)
    arms: Mapping[str, Arm] = field(default_factory=lambda: ARMS)
    seeds: Sequence[int] = SEEDS
    data_options: Json = field(default_factory=lambda: {"cache": True})

    def measured(self, job: Job) -> tuple[dict[str, float], float]:
        out = self.runs / "-".join(map(str, job.key)).replace(" ", "-")
        config = replace(job.config, out=str(out))
        metrics = train(
            config,
            resume=(out / CHECKPOINT).exists(),
            criterion=lambda *_: Criterion(self.arms[job.arm].make(job.weights)),
        )
        del metrics["seconds_per_step"]
        return metrics, math.nan  # of a training that may go on in another process, nobody knows the time
