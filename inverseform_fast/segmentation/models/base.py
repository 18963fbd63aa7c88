"""The base class of models, and the inputs that a model takes from a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ..tasks import Task


class SegmentationModel(nn.Module):
    """Maps inputs by name to a prediction for each task.

    A new model is a subclass with ``forward``, and a line in ``models.MODELS``. :func:`build_model` calls it as
    :class:`ModelType` says, and it predicts ``task.channels`` numbers per pixel for each task.

    Attributes:
        inputs: keys of the sample that ``forward`` needs, for example ``("image", "depth")`` for RGB-D.
    """

    inputs: tuple[str, ...] = ("image",)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predicts every task of a batch.

        Args:
            inputs: the batches of ``self.inputs`` by name; ``"image"`` is float32 (N, 3, H, W), normalized.

        Returns:
            For each task, by its name, floats (N, channels, h, w) of any resolution. ``"boundary"``, if there is such
            a head, are boundary logits (N, 1, h, w). ``"task/stage"`` may be an intermediate prediction for a task,
            which its loss may supervise.
        """
        raise NotImplementedError


class ModelType(Protocol):
    """The entries of ``MODELS``: each makes a model for a backbone's name and the tasks to predict, in order."""

    def __call__(
        self, backbone: str, tasks: Mapping[str, Task], *, boundary_head: bool, pretrained: bool
    ) -> SegmentationModel: ...


def model_inputs(model: SegmentationModel, batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Moves the model's inputs of a batch to the device; returns them by name.

    Raises:
        ValueError: the batch lacks an input.
    """
    if missing := [name for name in model.inputs if name not in batch]:
        raise ValueError(
            f"the data set must give the model's inputs {', '.join(model.inputs)}, but lacks {', '.join(missing)}"
        )
    return {name: batch[name].to(device, non_blocking=True) for name in model.inputs}


def forward_in_training(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Predicts every task of a batch, by a model in training mode or by what wraps it.

    Raises:
        ValueError: the batch is so small that a BatchNorm of the model sees a single value.
    """
    try:
        return model(inputs)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        images = inputs["image"].shape
        raise ValueError(
            "batch_size must be at least 2, or crop larger: BatchNorm cannot train on one value per channel, which is "
            f"all that {images[0]} x {images[2]}x{images[3]} pixels give this model"
        ) from error
