"""What a model is, and what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ..tasks import Task


class SegmentationModel(nn.Module):
    """Maps inputs by name to a prediction for each task.

    A new model is a subclass with ``forward``, and a line in ``models.MODELS``; the registry calls it as
    :class:`ModelType` says, and it makes ``task.channels`` outputs for each task.

    Attributes:
        inputs: keys of the sample that ``forward`` wants; ``("image", "depth")`` for RGB-D, say.
    """

    inputs: tuple[str, ...] = ("image",)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predicts from batches by name; ``inputs["image"]`` is float32 (N, 3, H, W), normalised.

        Returns:
            ``task``: (N, channels, h, w) for each task, of any resolution. ``"boundary"``: (N, 1, h, w) logits of the
            boundary, if there is such a head. ``"task/stage"``: what else is predicted for a task on the way, for a
            loss that supervises it.
        """
        raise NotImplementedError


class ModelType(Protocol):
    """What ``MODELS`` holds: makes a model of a backbone by name, for tasks in order."""

    def __call__(
        self, backbone: str, tasks: Mapping[str, Task], *, boundary_head: bool, pretrained: bool
    ) -> SegmentationModel: ...


def model_inputs(model: SegmentationModel, batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """What the model wants of a batch, on the device.

    Raises:
        ValueError: the batch lacks an input.
    """
    if missing := [name for name in model.inputs if name not in batch]:
        raise ValueError(
            f"the data set must give the model's inputs {', '.join(model.inputs)}, but lacks {', '.join(missing)}"
        )
    return {name: batch[name].to(device, non_blocking=True) for name in model.inputs}
