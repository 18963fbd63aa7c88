"""The base class of models, and the inputs that a model takes from a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ..tasks import Task

Predict = Callable[..., dict[str, Tensor]]
TermsOf = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]


class SegmentationModel(nn.Module):
    """Maps inputs by name to a prediction for each task.

    A new model is a subclass with ``forward``, and a line in ``models.MODELS``. :func:`build_model` calls it as
    :class:`ModelType` says, and it predicts ``task.channels`` numbers per pixel for each task.

    Attributes:
        inputs: keys of the sample that ``forward`` needs, for example ``("image", "depth")`` for RGB-D.
        auxiliary: names of the tasks that are trained only because they help the others.
        takes_turns: whether ``losses`` yields for each task, in turns.
    """

    inputs: tuple[str, ...] = ("image",)
    auxiliary: tuple[str, ...] = ()
    takes_turns: bool = False

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predicts every task of a batch.

        Args:
            inputs: the batches of ``self.inputs`` by name; ``"image"`` is float32 (N, 3, H, W), normalized.

        Returns:
            For each task, by its name, floats (N, channels, h, w) of any resolution. ``"boundary"``, if there is such
            a head, are boundary logits (N, 1, h, w). ``"task/stage"`` is an intermediate prediction for a task, which
            the criterion supervises, too.
        """
        raise NotImplementedError

    def losses(
        self, predict: Predict, criterion: TermsOf, targets: Mapping[str, Tensor], progress: float
    ) -> Iterator[dict[str, Tensor]]:
        """Yields the terms of a batch's loss, once for each step that the optimizer takes: here it takes one.

        A model that must take its tasks one after another yields the terms of the next task when the optimizer has
        taken the step of the last one.

        Args:
            predict: calls ``forward`` with the batch's inputs and its own arguments, in the training's precision.
            criterion: makes the terms, ``"total"`` among them, of predictions and targets by name; it takes only the
                tasks that have a target.
            targets: batches of maps by task.
            progress: share of the training that is over when the batch's steps are taken, above 0 and at most 1.
        """
        yield criterion(predict(), targets)

    def lr_scales(self) -> dict[str, float]:
        """Returns the factors of the learning rate, by the parameter's name; those that are not there have 1."""
        return {}


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


def forward_in_training(model: nn.Module, inputs: Mapping[str, Tensor], *arguments: str) -> dict[str, Tensor]:
    """Predicts every task of a batch, by a model in training mode or by what wraps it.

    Raises:
        ValueError: the batch is so small that a BatchNorm of the model sees a single value.
    """
    try:
        return model(inputs, *arguments)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        images = inputs["image"].shape
        raise ValueError(
            "batch_size must be at least 2, or crop larger: BatchNorm cannot train on one value per channel, which is "
            f"all that {images[0]} x {images[2]}x{images[3]} pixels give this model"
        ) from error
