"""Training by steps, such that a run that was killed and resumed ends with the same numbers as one that was not.

The batch of step k, its augmentation, the model's own randomness and the learning rate are pure functions of
(config, k), so a checkpoint needs the weights, the optimiser's state and k. On a CPU the numbers are the same bit for
bit; on a GPU as far as its kernels are deterministic.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm.optim
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.tensorboard import SummaryWriter

import inverseform_fast as iff

from ..devices import choose_device
from ..files import write_atomically
from .checkpoint import CHECKPOINT, Checkpoint, load_checkpoint, save_checkpoint
from .config import TrainConfig
from .evaluation import evaluate, open_dataset
from .models import build_model
from .report import METRICS, PICTURE, REPORT, summary, write_report
from .transforms import train_transform

_AMP_DTYPES = {"none": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_RESULTS = (CHECKPOINT, METRICS, REPORT, PICTURE)


def derived_seed(*parts: int) -> int:
    """A well-mixed 63-bit seed from a tuple of non-negative integers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


class StepBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (sample index, augmentation seed) for the steps ``first`` .. ``steps - 1``.

    Each pass over the data is a fresh permutation; batches run across the passes, so any batch size fits any data set.
    """

    def __init__(self, length: int, config: TrainConfig, first: int = 0) -> None:
        self.length = length
        self.config = config
        self.first = first

    def __len__(self) -> int:
        return self.config.steps - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self.config.batch_size
        epoch, order = -1, torch.empty(0)
        for step in range(self.first, self.config.steps):
            batch = []
            for position in range(step * size, (step + 1) * size):
                if position // self.length != epoch:
                    epoch = position // self.length
                    generator = torch.Generator().manual_seed(derived_seed(self.config.seed, 0, epoch))
                    order = torch.randperm(self.length, generator=generator)
                batch.append((int(order[position % self.length]), derived_seed(self.config.seed, 1, position)))
            yield batch


class SeededSamples(Dataset[dict[str, Tensor]]):
    """Augmented samples whose randomness comes from the seed in the key alone, in any process."""

    def __init__(self, dataset: Any, transform: Callable[[Any], Any]) -> None:
        self.dataset = dataset
        self.transform = transform

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        index, seed = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.transform(self.dataset[index])


class Criterion(nn.Module):
    """The loss arm that a configuration names, as terms by name; ``"total"`` is what is minimised."""

    def __init__(self, config: TrainConfig, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.loss: iff.BoundaryAwareLoss | None = None
        if config.loss != "ce":
            weights: dict[str, Any] = {"beta": config.beta, "gamma": config.gamma}
            weights = {name: value for name, value in weights.items() if value is not None}
            if config.loss == "boundary":
                weights["gamma"] = 0.0
            term = iff.InverseFormLoss(net=config.net, distance=config.distance, resize=config.resize)
            self.loss = iff.BoundaryAwareLoss(
                **weights, radius=config.radius, ignore_index=ignore_index, inverseform=term
            )
            self.gamma, self.start = self.loss.gamma, config.inverseform_start

    def forward(self, predictions: Mapping[str, Tensor], labels: Tensor, step: int) -> dict[str, Tensor]:
        logits = predictions["segmentation"]
        if self.loss is None:
            loss = iff.functional.segmentation_loss(logits, labels, ignore_index=self.ignore_index)
            return {"total": loss, "segmentation": loss}
        self.loss.gamma = self.gamma if step >= self.start else 0.0
        return self.loss(logits, labels, predictions.get("boundary"))._asdict()


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up times polynomial decay to 0 over all steps."""
    warmup = min(1.0, (step + 1) / (config.warmup + 1))
    return config.lr * warmup * (1 - step / config.steps) ** config.power


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over the model's parameters; norms and biases do not decay."""
    groups = timm.optim.param_groups_weight_decay(model, config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=config.lr)


def open_datasets(config: TrainConfig) -> tuple[Any, Any]:
    """The data sets to train and to evaluate on.

    Raises:
        FileNotFoundError, ValueError: a bad option, or a file that is missing or bad.
    """
    return open_dataset(config, config.train_split), open_dataset(config, config.eval_split)


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    datasets: tuple[Any, Any] | None = None,
    criterion: Callable[[TrainConfig, int], nn.Module] = Criterion,
    console: Console | None = None,
) -> dict[str, float]:
    """Trains, evaluates and reports; everything it writes goes into ``config.out``.

    Args:
        resume: go on from the checkpoint in ``config.out``.
        overwrite: remove an earlier run's files from ``config.out`` first.
        datasets: to train and to evaluate on; those that ``config`` names if not given.
        criterion: makes another loss than :class:`Criterion` from the configuration and the ``ignore_index``.
        console: where progress goes.

    Returns:
        The evaluation metrics, and ``seconds_per_step``.

    Raises:
        FileExistsError: the folder holds a checkpoint, and neither ``resume`` nor ``overwrite`` is given.
        FileNotFoundError: nothing to resume; or no data.
        ValueError: a bad configuration, or one that differs from the checkpoint's in what decides the result.
        FloatingPointError: the loss is no longer finite.
    """
    out = Path(config.out)
    checkpoint = _check_folder(out, config, resume, overwrite)
    if config.threads:
        torch.set_num_threads(config.threads)
    train_set, eval_set = datasets or open_datasets(config)
    run = _Run(config, train_set, eval_set, criterion, console or Console())
    if checkpoint:
        run.restore(checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    if overwrite:
        for path in [path for name in (*_RESULTS, "tensorboard/events.out.tfevents.*") for path in out.glob(name)]:
            path.unlink()
    text = json.dumps(config.to_dict(), indent=2)
    write_atomically(out / "config.json", lambda file: file.write(text.encode()))
    metrics = run.fit()
    write_report(out, config, run.model, eval_set, metrics)
    return metrics


def _check_folder(out: Path, config: TrainConfig, resume: bool, overwrite: bool) -> Checkpoint | None:
    """The checkpoint to resume from, if any; raises rather than let an earlier run's files be lost."""
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other")
    if resume:
        checkpoint = load_checkpoint(out / CHECKPOINT)
        changes = [
            f"{name} was {old!r}, now {new!r}" for name, (old, new) in checkpoint.config.difference(config).items()
        ]
        if changes:
            raise ValueError(f"a resumed run must keep the configuration of {out / CHECKPOINT}: {'; '.join(changes)}")
        return checkpoint
    found = [name for name in _RESULTS if (out / name).exists()]
    if found and not overwrite:
        raise FileExistsError(
            f"{out} holds an earlier run ({', '.join(found)}): resume it, overwrite it, or choose another"
        )
    return None


def _terms_text(values: Mapping[str, float]) -> str:
    """The terms of the loss in short, under the paper's names."""
    short = {"total": "L", "segmentation": "xe", "boundary": "bxe", "inverseform": "if"}
    return " ".join(f"{short[name]} {value:.3f}" for name, value in values.items())


class _Run:
    """One training run: what changes from step to step, and the loop."""

    def __init__(
        self,
        config: TrainConfig,
        train_set: Any,
        eval_set: Any,
        criterion: Callable[[TrainConfig, int], nn.Module],
        console: Console,
    ) -> None:
        self.config, self.train_set, self.eval_set, self.console = config, train_set, eval_set, console
        self.device = choose_device(config.device)
        torch.manual_seed(config.seed)
        self.model = build_model(
            config.backbone, len(train_set.classes), config.boundary_head, config.pretrained, config.model
        ).to(self.device)
        self.criterion = criterion(config, train_set.ignore_index).to(self.device)
        self.optimizer = build_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")
        self.first_step = self.step = 0
        self.seconds = 0.0  # spent in steps by this process, loading included

    def restore(self, checkpoint: Checkpoint) -> None:
        if checkpoint.classes != self.train_set.classes:
            raise ValueError(
                f"the data set must have the checkpoint's classes {checkpoint.classes}, got {self.train_set.classes}"
            )
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.scaler.load_state_dict(checkpoint.scaler)
        self.first_step = self.step = checkpoint.step

    def fit(self) -> dict[str, float]:
        """Takes the steps that are left, with logs, checkpoints and evaluations; returns the last evaluation."""
        config = self.config
        transform = train_transform(config.crop, config.scale, ignore_index=self.train_set.ignore_index)
        loader = DataLoader(
            SeededSamples(self.train_set, transform),
            batch_sampler=StepBatches(len(self.train_set), config, self.first_step),
            num_workers=config.workers,
            pin_memory=self.device.type == "cuda",
        )
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        progress = Progress(*columns, TextColumn("{task.fields[status]}"), console=self.console)
        writer = SummaryWriter(str(Path(config.out) / "tensorboard"), purge_step=self.first_step)
        self.model.train()
        with progress, writer:
            bar = progress.add_task(config.loss, total=config.steps, completed=self.step, status="")
            started = time.perf_counter()
            for batch in loader:
                terms = self._take_step(batch)
                saves = self._is_due(config.checkpoint_every)
                logs = saves or self._is_due(config.log_every)
                values = self._finite_values(terms) if logs else {}
                self.seconds += time.perf_counter() - started
                progress.update(bar, completed=self.step)
                if logs:
                    progress.update(bar, status=_terms_text(values))
                    self._log(writer, values)
                if saves:
                    self._save()
                if config.eval_every and self.step % config.eval_every == 0 and self.step < config.steps:
                    self._evaluate(writer, progress)
                started = time.perf_counter()
            return self._evaluate(writer, progress)

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _take_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step of the optimiser; returns the terms of the loss, still on the device."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        torch.manual_seed(derived_seed(config.seed, 2, self.step))  # dropout and the like
        images = batch["image"].to(self.device, non_blocking=True)
        labels = batch["segmentation"].to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, _AMP_DTYPES[config.amp], enabled=config.amp != "none"):
            predictions = self.model(images)
        terms = self.criterion(predictions, labels, self.step)
        self.optimizer.zero_grad()
        self.scaler.scale(terms["total"]).backward()
        if config.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        return terms

    def _finite_values(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """The terms as numbers, which waits for the device; so it is asked only when they are logged."""
        values = {name: float(term.detach()) for name, term in terms.items()}
        if not math.isfinite(values["total"]):
            raise FloatingPointError(f"the loss is not finite at step {self.step}: {values}; the last checkpoint stays")
        return values

    def _log(self, writer: SummaryWriter, values: dict[str, float]) -> None:
        seconds = self._seconds_per_step()
        for name, value in values.items():
            writer.add_scalar(f"loss/{name}", value, self.step)
        writer.add_scalar("train/lr", self.optimizer.param_groups[0]["lr"], self.step)
        writer.add_scalar("train/seconds_per_step", seconds, self.step)
        writer.add_scalar("train/images_per_second", self.config.batch_size / seconds, self.step)

    def _save(self) -> None:
        states = self.model.state_dict(), self.optimizer.state_dict(), self.scaler.state_dict()
        path = Path(self.config.out) / CHECKPOINT
        save_checkpoint(path, Checkpoint(self.config, list(self.train_set.classes), self.step, *states))

    def _evaluate(self, writer: SummaryWriter, progress: Progress) -> dict[str, float]:
        bar = progress.add_task("evaluating", total=len(self.eval_set), status="")
        metrics = evaluate(
            self.model,
            self.eval_set,
            size=self.config.eval_size,
            batch_size=self.config.batch_size,
            workers=self.config.workers,
            on_images=lambda count: progress.advance(bar, count),
        )
        progress.remove_task(bar)
        for name, value in metrics.items():
            writer.add_scalar(f"eval/{name}", value, self.step)
        progress.console.print(f"step {self.step}: {summary(metrics)}")
        return {**metrics, "seconds_per_step": self._seconds_per_step()}

    def _seconds_per_step(self) -> float:
        """Mean over the steps of this process; NaN before the first."""
        return self.seconds / steps if (steps := self.step - self.first_step) else math.nan
