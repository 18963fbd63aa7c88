"""A training goes by steps; a run that is killed and resumed ends with the same numbers as one that is not.

The batch of step k, its augmentation, the model's own randomness and the learning rate are pure functions of
(config, k), so a checkpoint needs only the weights, the optimizer's state and k. On a CPU the numbers are the same bit
for bit; on a GPU they are as far as its kernels are deterministic.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from inverseform_fast import Alignment

from ...devices import choose_device
from ...files import locked, write_atomically
from ...nets.weights import load_strictly
from ...states import check_keys, restore_optimizer, stop_explained
from ..checkpoint import CHECKPOINT, Checkpoint, load_checkpoint, save_checkpoint
from ..config import TrainConfig
from ..datasets import Sample, SegmentationDataset
from ..evaluation import check_tasks, evaluate, open_dataset
from ..models import build_model
from ..models.base import forward_in_training, model_inputs
from ..moved_labels import MovedLabels, draw_moved
from ..progress import bars, counter, say
from ..report import METRICS, PICTURE, REPORT, summary, terms_text, write_report
from ..tasks import Task, choose_tasks
from ..transforms import TrainTransform, denormalize
from .alignment import TargetAligner, alignment_scalars
from .criterion import Criterion
from .optim import build_optimizer, learning_rate
from .sampling import SeededSamples, StepBatches, derived_seed

Datasets = tuple[SegmentationDataset, SegmentationDataset]
MakeCriterion = Callable[[TrainConfig, Mapping[str, Task]], nn.Module]

_AMP_DTYPES = {"none": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PICTURED = 4  # images of a batch whose moved labels TensorBoard shows
_RESULTS = (CHECKPOINT, METRICS, REPORT, PICTURE)


def open_datasets(config: TrainConfig) -> Datasets:
    """Opens the data sets to train and to evaluate on, in this order.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: an option is wrong, or a file is bad.
    """
    return open_dataset(config, config.train_split), open_dataset(config, config.eval_split)


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    datasets: Datasets | None = None,
    criterion: MakeCriterion = Criterion,
    console: Console | None = None,
) -> dict[str, float]:
    """Trains, evaluates and reports; everything it writes goes into ``config.out``.

    Args:
        config: the options of the run.
        resume: continue from the checkpoint in ``config.out``.
        overwrite: remove an earlier run's files from ``config.out`` first.
        datasets: the data sets to train and to evaluate on; those that ``config`` names if not given.
        criterion: makes the loss from the configuration and the tasks; it is called as :class:`Criterion` is.
        console: shows the progress.

    Returns:
        The evaluation metrics, and ``seconds_per_step``.

    Raises:
        FileExistsError: the folder holds an earlier run, and neither ``resume`` nor ``overwrite`` is given.
        FileNotFoundError: there is nothing to resume, or the data are missing.
        BlockingIOError: another process trains into the folder.
        ValueError: the configuration is wrong, or differs from the checkpoint's in what decides the result.
        FloatingPointError: the loss or a weight is no longer finite.
        KeyboardInterrupt, OSError: as they come; the message says what is safe.
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other")
    out, console = Path(config.out), console or Console()
    with locked(out):
        checkpoint = _check_folder(out, config, resume, overwrite)
        if config.threads:
            torch.set_num_threads(config.threads)
        train_set, eval_set = datasets or open_datasets(config)
        train_set.check_for_training()
        run = _Run(config, train_set, eval_set, criterion, console)
        if checkpoint:
            run.restore(checkpoint)
        with stop_explained(out / CHECKPOINT, run):
            _prepare_folder(out, config, overwrite)
            metrics = run.fit()
            say(console, "writing the report")
            write_report(out, config, run.model, eval_set, run.tasks, metrics)
        return metrics


def _check_folder(out: Path, config: TrainConfig, resume: bool, overwrite: bool) -> Checkpoint | None:
    """Returns the checkpoint to resume from, if any; raises an error before an earlier run's files would be lost."""
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
            f"out must be a folder without a run, but {out} holds an earlier run ({', '.join(found)}): "
            "resume it, overwrite it, or choose another folder"
        )
    return None


def _prepare_folder(out: Path, config: TrainConfig, overwrite: bool) -> None:
    """Makes the folder and its ``config.json``; removes an earlier run's files if ``overwrite`` is set."""
    out.mkdir(parents=True, exist_ok=True)
    if overwrite:
        for path in [path for name in (*_RESULTS, "tensorboard/events.out.tfevents.*") for path in out.glob(name)]:
            path.unlink()
    text = json.dumps(config.to_dict(), indent=2)
    write_atomically(out / "config.json", lambda file: file.write(text.encode()))


class _Run:
    """One training run: its state, which changes from step to step, and its loop."""

    def __init__(
        self,
        config: TrainConfig,
        train_set: SegmentationDataset,
        eval_set: SegmentationDataset,
        criterion: MakeCriterion,
        console: Console,
    ) -> None:
        self.config, self.train_set, self.eval_set, self.console = config, train_set, eval_set, console
        self.tasks = choose_tasks(train_set.tasks, config.tasks)
        check_tasks(eval_set, self.tasks)
        self.device = choose_device(config.device)
        torch.manual_seed(config.seed)
        self.model = build_model(
            config.model,
            config.backbone,
            self.tasks,
            boundary_head=config.boundary_head,
            pretrained=config.pretrained,
            **config.model_options,
        ).to(self.device)
        self.criterion = criterion(config, self.tasks).to(self.device)
        self.aligner = TargetAligner(config, self.tasks).to(self.device)
        self.optimizer = build_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")
        self.first_step = self.step = 0
        self.saved: int | None = None  # the step of the checkpoint
        self.seconds = 0.0  # what this process has spent in steps, loading included
        self.seconds_per_step = math.nan  # the mean over the steps of this process

    def restore(self, checkpoint: Checkpoint) -> None:
        check_tasks(self.train_set, checkpoint.tasks)
        if list(checkpoint.tasks) != list(self.tasks):
            raise ValueError(
                f"the data set must have its tasks in the order of {checkpoint.path}, {', '.join(checkpoint.tasks)}, "
                f"got {', '.join(self.tasks)}"
            )
        load_strictly(self.model, checkpoint.model, checkpoint.path, "checkpoint")
        restore_optimizer(self.optimizer, checkpoint.optimizer, f"the optimizer's state of {checkpoint.path}")
        check_keys(checkpoint.scaler, self.scaler.state_dict(), f"the scaler's state of {checkpoint.path}")
        if not all(isinstance(value, int | float) for value in checkpoint.scaler.values()):
            raise ValueError(f"the scaler's state of {checkpoint.path} must hold numbers, got {checkpoint.scaler}")
        self.scaler.load_state_dict(checkpoint.scaler)
        self.first_step = self.step = self.saved = checkpoint.step
        if self.step == self.config.steps:  # no step is left to measure
            self.seconds_per_step = _measured_before(Path(self.config.out))

    def fit(self) -> dict[str, float]:
        """Takes the remaining steps, with logs, checkpoints and evaluations; returns the last evaluation's metrics."""
        writer = SummaryWriter(str(Path(self.config.out) / "tensorboard"), purge_step=self.first_step)
        self.model.train()
        with bars(self.console) as progress, writer:
            self._take_steps(writer, progress)
            return self._evaluate(writer, progress)

    def _take_steps(self, writer: SummaryWriter, progress: Progress) -> None:
        config = self.config
        bar = progress.add_task(config.loss, total=config.steps, completed=self.step, status="")
        started = time.perf_counter()
        for batch in self._batches():
            terms, alignments = self._take_step(batch)
            saves = self._is_due(config.checkpoint_every)
            logs = saves or self._is_due(config.log_every)
            values = self._finite_values(terms) if logs else {}
            self.seconds += time.perf_counter() - started
            self.seconds_per_step = self.seconds / (self.step - self.first_step)
            progress.update(bar, completed=self.step)
            if logs:
                # A term that is exactly 0 is off, or has nothing to see.
                status = terms_text({k: v for k, v in values.items() if v or k == "total"}, self.tasks)
                progress.update(bar, status=status)
                if not self.console.is_terminal:
                    say(self.console, f"step {self.step} of {config.steps}: {status}")
                self._log(writer, values, alignments)
            if saves:
                self._save()
                self._draw_moved(writer, batch, alignments)
            if config.eval_every and self.step % config.eval_every == 0 and self.step < config.steps:
                self._evaluate(writer, progress)
            started = time.perf_counter()

    def _batches(self) -> DataLoader[Sample]:
        """Returns the batches of the remaining steps."""
        transform = TrainTransform(self.train_set.tasks, self.config.crop, self.config.scale)
        return DataLoader(
            SeededSamples(self.train_set, transform),
            batch_sampler=StepBatches(len(self.train_set), self.config, self.first_step),
            num_workers=self.config.workers,
            pin_memory=self.device.type == "cuda",
        )

    def _is_due(self, interval: int) -> bool:
        return self.step % interval == 0 or self.step == self.config.steps

    def _take_step(self, batch: Sample) -> tuple[dict[str, Tensor], dict[str, Alignment]]:
        """Takes one step of the optimizer; returns the loss's terms and what was aligned, still on the device."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        torch.manual_seed(derived_seed(config.seed, 2, self.step))  # for dropout and the like
        inputs = model_inputs(self.model, batch, self.device)
        targets = {name: batch[name].to(self.device, non_blocking=True) for name in self.tasks}
        with torch.autocast(self.device.type, _AMP_DTYPES[config.amp], enabled=config.amp != "none"):
            predictions = forward_in_training(self.model, inputs)
        alignments = self.aligner(predictions, targets, self.step)
        aligned = {name: alignment.labels for name, alignment in alignments.items()}
        terms = self.criterion(predictions, targets | aligned, self.step)
        self.optimizer.zero_grad()
        self.scaler.scale(terms["total"]).backward()
        if config.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        return terms, alignments

    def _finite_values(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """Returns the terms as numbers. This waits for the device, so it is done only in steps that are logged."""
        values = {name: float(term.detach()) for name, term in terms.items()}
        if not math.isfinite(values["total"]):
            raise FloatingPointError(f"the loss must be finite, but is not at step {self.step}: {values}")
        return values

    def _log(self, writer: SummaryWriter, values: dict[str, float], alignments: dict[str, Alignment]) -> None:
        for name, value in values.items():
            writer.add_scalar(f"loss/{name}", value, self.step)
        for name, value in alignment_scalars(alignments).items():
            writer.add_scalar(f"align/{name}", value, self.step)
        writer.add_scalar("train/lr", self.optimizer.param_groups[0]["lr"], self.step)
        writer.add_scalar("train/seconds_per_step", self.seconds_per_step, self.step)
        writer.add_scalar("train/images_per_second", self.config.batch_size / self.seconds_per_step, self.step)

    def _save(self) -> None:
        states = self.model.state_dict(), self.optimizer.state_dict(), self.scaler.state_dict()
        save_checkpoint(Path(self.config.out) / CHECKPOINT, Checkpoint(self.config, self.tasks, self.step, *states))
        self.saved = self.step

    def _draw_moved(self, writer: SummaryWriter, batch: Sample, alignments: dict[str, Alignment]) -> None:
        for name, alignment in alignments.items():
            parts = denormalize(batch["image"]), batch[name], alignment.labels, alignment.displacement
            titles = [f"image {position} of step {self.step}" for position in range(_PICTURED)]
            rows = [MovedLabels(*row) for row in zip(titles, *parts, strict=False)]
            writer.add_figure(f"align/{name}", draw_moved(rows, self.tasks[name]), self.step)

    def _evaluate(self, writer: SummaryWriter, progress: Progress) -> dict[str, float]:
        metrics = evaluate(
            self.model,
            self.eval_set,
            tasks=self.tasks,
            size=self.config.eval_size,
            batch_size=self.config.batch_size,
            workers=self.config.workers,
            on_images=counter(progress, "evaluating", len(self.eval_set)),
        )
        for name, value in metrics.items():
            writer.add_scalar(f"eval/{name}", value, self.step)
        say(progress.console, f"step {self.step}: {summary(metrics, self.tasks)}")
        return {**metrics, "seconds_per_step": self.seconds_per_step}


def _measured_before(out: Path) -> float:
    """Returns the seconds per step that the report of a finished run gives; NaN if it gives none."""
    try:
        value = json.loads((out / METRICS).read_text())["seconds_per_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return math.nan
    return float(value) if isinstance(value, float | int) else math.nan
