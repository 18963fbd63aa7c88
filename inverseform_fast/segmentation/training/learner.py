"""The model of a training and what changes it: the loss, the optimizer, and a step of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inverseform_fast import Alignment

from ...nets.weights import load_strictly
from ...states import check_keys, restore_optimizer
from ..checkpoint import Checkpoint
from ..config import TrainConfig
from ..datasets import Sample
from ..models import build_model
from ..models.base import forward_in_training, model_inputs
from ..processes import Processes
from ..tasks import Task
from .alignment import TargetAligner, alignment_scalars
from .optim import build_optimizer, learning_rate
from .sampling import derived_seed
from .sharing import averaging, read_parts, shard_optimizer, share_model
from .whole_batch import WholeBatch

MakeCriterion = Callable[[TrainConfig, Mapping[str, Task]], nn.Module]

_AMP_DTYPES = {"none": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Taken:
    """What a step took from a part of its batch, still on the device.

    Attributes:
        terms: the loss's terms.
        alignments: what became of the targets, by task.
    """

    def __init__(self, terms: dict[str, Tensor], alignments: dict[str, Alignment]) -> None:
        self.terms, self.alignments = {name: term.detach() for name, term in terms.items()}, alignments

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Adds the terms of another step of the optimizer; totals add up."""
        total = self.terms["total"] + terms["total"].detach()
        self.terms |= {name: term.detach() for name, term in terms.items()} | {"total": total}

    def scalars(self) -> dict[str, float]:
        """The numbers that logs show: ``loss/`` and ``align/`` by name; this waits for the device."""
        values = {f"loss/{name}": float(term) for name, term in self.terms.items()}
        return values | {f"align/{name}": value for name, value in alignment_scalars(self.alignments).items()}


class Learner:
    """A model, its loss and its optimizer.

    Args:
        config: the options of the run.
        tasks: the tasks to learn.
        criterion: makes the loss.
        processes: those that learn together.
        checkpoint: where to go on from; None starts anew.

    Raises:
        ValueError: an option is wrong, or the checkpoint does not fit.
    """

    def __init__(
        self,
        config: TrainConfig,
        tasks: Mapping[str, Task],
        criterion: MakeCriterion,
        processes: Processes,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.config, self.tasks, self.device = config, tasks, processes.device
        torch.manual_seed(config.seed)
        self.model = build_model(
            config.model,
            config.backbone,
            tasks,
            boundary_head=config.boundary_head,
            pretrained=config.pretrained,
            **config.model_options,
        )
        if self.model.takes_turns and (config.accumulate > 1 or processes.size > 1):
            raise ValueError(f"accumulate and the number of processes must be 1: {config.model} trains tasks in turns")
        if checkpoint and not checkpoint.shards:
            load_strictly(self.model, checkpoint.model, checkpoint.path, "checkpoint")
        self.shared = share_model(self.model, config, processes)
        self.shares_batch_norm = config.sync_bn and processes.size > 1 and self.device.type == "cpu"
        self.criterion = criterion(config, tasks).to(self.device)
        self.aligner = TargetAligner(config, tasks).to(self.device)
        self.optimizer = build_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")
        if checkpoint:
            self._restore(checkpoint)
        self.model.train()

    def _restore(self, checkpoint: Checkpoint) -> None:
        moments = checkpoint.optimizer
        if checkpoint.shards:
            moments = read_parts(self.model, self.optimizer, checkpoint, Path(self.config.out))
        restore_optimizer(self.optimizer, moments, f"the optimizer's state of {checkpoint.path}")
        shard_optimizer(self.optimizer)
        check_keys(checkpoint.scaler, self.scaler.state_dict(), f"the scaler's state of {checkpoint.path}")
        if not all(isinstance(value, int | float) for value in checkpoint.scaler.values()):
            raise ValueError(f"the scaler's state of {checkpoint.path} must hold numbers, got {checkpoint.scaler}")
        self.scaler.load_state_dict(checkpoint.scaler)

    def states(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Returns the states of model, optimizer and scaler, with this process's parts of sharded tensors."""
        return self.model.state_dict(), self.optimizer.state_dict(), self.scaler.state_dict()

    def take_step(self, batch: Sample, step: int, positions: Sequence[int]) -> list[Taken]:
        """Takes a step of the optimizer.

        Args:
            batch: this process's samples.
            step: number of steps taken before this one.
            positions: the number of each sample among all samples of the training.

        Returns:
            What it took from each part of the batch.
        """
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, step) * group.get("lr_scale", 1.0)
        torch.manual_seed(derived_seed(config.seed, 2, step))  # for what samples have in common
        parts = self._parts(batch)
        targets = [{name: part[name].to(self.device, non_blocking=True) for name in self.tasks} for part in parts]
        counts = self._counts(targets, step)
        taken = []
        for number, part in enumerate(parts):
            with averaging(self.shared, number == len(parts) - 1):
                seeds = [(config.seed, 2, position) for position in positions[number :: len(parts)]]
                part_taken = Taken({"total": torch.zeros((), device=self.device)}, {})
                predict = partial(self._predict, part, seeds)
                criterion = partial(self._terms, part_taken, step, counts)
                for terms in self.model.losses(predict, criterion, targets[number], (step + 1) / config.steps):
                    self.scaler.scale(terms["total"] / len(parts)).backward()
                    part_taken.add(terms)
                    if number == len(parts) - 1:
                        self._step()
                taken.append(part_taken)
        return taken

    def _step(self) -> None:
        """Takes a step of the optimizer by the gradients, which are gone afterwards."""
        if self.config.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def _parts(self, batch: Sample) -> list[Sample]:
        """Returns the parts of a batch that are taken one after another."""
        count = self.config.accumulate
        return [{name: values[number::count] for name, values in batch.items()} for number in range(count)]

    def _counts(self, targets: Sequence[Mapping[str, Tensor]], step: int) -> list[Any]:
        """Returns what the criterion must know of all parts, if there are several and it can: a list of one or none."""
        count = getattr(self.criterion, "count", None)
        return [count(targets, step)] if count and len(targets) > 1 else []

    def _predict(self, part: Sample, seeds: Sequence[Sequence[int]], *arguments: str) -> dict[str, Tensor]:
        amp = self.config.amp
        inputs = model_inputs(self.model, part, self.device)
        with (
            torch.autocast(self.device.type, _AMP_DTYPES[amp], enabled=amp != "none"),
            WholeBatch(seeds, self.shares_batch_norm),
        ):
            return forward_in_training(self.shared, inputs, *arguments)

    def _terms(
        self,
        taken: Taken,
        step: int,
        counts: list[Any],
        predictions: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Returns the loss's terms, after the targets were aligned."""
        alignments = self.aligner(predictions, targets, step)
        taken.alignments |= alignments
        aligned = {name: alignment.labels for name, alignment in alignments.items()}
        return self.criterion(predictions, {**targets, **aligned}, step, *counts)
