"""The targets of a batch are moved to where the model sees them, before the loss."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from inverseform_fast import Alignment

from ..config import TrainConfig
from ..tasks import Task


class TargetAligner(nn.Module):
    """Moves the targets of all tasks that have an aligner, if ``config.align_labels`` says so.

    Raises:
        ValueError: targets are to be moved, but no task has an aligner.
    """

    def __init__(self, config: TrainConfig, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        self.start = config.steps // 4 if config.align_start is None else config.align_start
        made = {name: task.aligner(config) for name, task in tasks.items()} if config.align_labels else {}
        self.aligners = nn.ModuleDict({name: aligner for name, aligner in made.items() if aligner is not None})
        if config.align_labels and not self.aligners:
            raise ValueError(f"align_labels needs a task that has an aligner, such as semantic, got {', '.join(tasks)}")

    def forward(
        self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor], step: int
    ) -> dict[str, Alignment]:
        """What became of the targets, by task; nothing in the steps before the start.

        Args:
            predictions: what the model returns, floats (N, C, h, w) by name.
            targets: batches of maps by task.
            step: number of steps taken before this one.
        """
        if step < self.start:
            return {}
        return {name: aligner(predictions, targets) for name, aligner in self.aligners.items()}


def alignment_scalars(alignments: Mapping[str, Alignment]) -> dict[str, float]:
    """Mean displacement in pixels and share of the tiles that moved, of each task; this waits for the device."""
    values = {}
    for name, alignment in alignments.items():
        values[f"{name}/displacement_px"] = float(alignment.displacement.norm(dim=1).mean())
        values[f"{name}/tiles_moved"] = float(alignment.moved.float().mean())
    return values
