"""A training goes by steps; a run that is killed and resumed ends with the same numbers as one that is not.

The batch of step k, its augmentation, the model's own randomness and the learning rate are pure functions of
(config, k), so a checkpoint needs only the weights, the optimizer's state and k. On a CPU the numbers are the same bit
for bit; on a GPU they are as far as its kernels are deterministic.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from inverseform_fast import Alignment

from ...files import check_is_shared, locked, write_atomically
from ...states import stop_explained
from ..checkpoint import CHECKPOINT, Checkpoint, load_checkpoint, read_checkpoint, save_checkpoint, write_tensors
from ..config import TrainConfig
from ..datasets import Sample, SegmentationDataset
from ..evaluation import check_tasks, evaluate, open_dataset
from ..moved_labels import MovedLabels, draw_moved
from ..processes import Processes, joined, share_of
from ..progress import bars, counter, say
from ..report import METRICS, PICTURE, REPORT, summary, terms_text, write_report
from ..shards import remove_shards
from ..tasks import Task, choose_tasks
from ..transforms import build_augmentation, denormalize
from .criterion import Criterion
from .learner import Learner, MakeCriterion, Taken
from .sampling import SeededSamples, StepBatches, check_divides
from .sharing import gathered, share_buffers

Datasets = tuple[SegmentationDataset, SegmentationDataset]

_PICTURED = 4  # images of a batch whose moved labels TensorBoard shows
_RESULTS = (CHECKPOINT, METRICS, REPORT, PICTURE)
_OWN_OPTIONS = ("root", "out", "device", "workers", "threads")  # in which processes may differ


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
        BlockingIOError: another run trains into the folder.
        ConnectionError: another process of the run was killed, or hangs.
        ValueError: the configuration is wrong, or differs from the checkpoint's in what decides the result.
        FloatingPointError: the loss or a weight is no longer finite.
        KeyboardInterrupt, OSError: as they come; the message says what is safe.
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other")
    out = Path(config.out)
    with joined(config.device, config.timeout) as processes:
        check_divides(config, processes.size)
        console = (console or Console()) if processes.is_first else Console(quiet=True)
        if processes.has_begun:  # torchrun has started the run anew
            overwrite, resume = False, (out / CHECKPOINT).exists()
        with locked(out) if processes.is_first else nullcontext():
            processes.require_same("options", {k: v for k, v in config.to_dict().items() if k not in _OWN_OPTIONS})
            if config.shard:
                check_is_shared(out)
            checkpoint = processes.from_first(lambda: _check_folder(out, config, resume, overwrite))
            if config.threads:
                torch.set_num_threads(config.threads)
            datasets = datasets or open_datasets(config)
            for dataset in datasets:
                dataset.check_files(share_of(len(dataset)))
            if processes.size > 1:
                processes.require_same("data", _fingerprints(datasets))
            tasks = _tasks(datasets, config, checkpoint)
            learner = Learner(config, tasks, criterion, processes, checkpoint)
            run = _Run(config, datasets, learner, processes, checkpoint, console)
            with stop_explained(out / CHECKPOINT, run), processes.watched(config.timeout):
                if processes.is_first:
                    _prepare_folder(out, config, overwrite)
                    processes.begin()
                metrics = run.fit()
                with gathered(learner.model):
                    if processes.is_first:
                        say(console, "writing the report")
                        write_report(out, config, learner.model, datasets[1], tasks, metrics)
            return metrics


def _tasks(datasets: Datasets, config: TrainConfig, checkpoint: Checkpoint | None) -> dict[str, Task]:
    """Returns the tasks to train, after the data sets and the checkpoint were checked to have them."""
    train_set, eval_set = datasets
    train_set.check_for_training()
    tasks = choose_tasks(train_set.tasks, config.tasks)
    check_tasks(eval_set, tasks)
    if checkpoint:
        check_tasks(train_set, checkpoint.tasks)
        if list(checkpoint.tasks) != list(tasks):
            raise ValueError(
                f"the data set must have its tasks in the order of {checkpoint.path}, {', '.join(checkpoint.tasks)}, "
                f"got {', '.join(tasks)}"
            )
    return tasks


def _fingerprints(datasets: Datasets) -> dict[str, str]:
    """Returns what must be the same on all processes: names, tasks, and the first and the last sample of each split."""
    prints = {}
    for split, dataset in zip(("train", "eval"), datasets, strict=True):
        prints[f"number of {split} images"] = str(len(dataset))
        prints[f"digest of {split} names and tasks"] = _digest(repr((dataset.names, dataset.tasks)).encode())
        for index in (0, len(dataset) - 1):
            values = [value.contiguous().numpy().tobytes() for _, value in sorted(dataset[index].items())]
            prints[f"digest of {split} image {index}"] = _digest(*values)
    return prints


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def _check_folder(out: Path, config: TrainConfig, resume: bool, overwrite: bool) -> Checkpoint | None:
    """Returns the checkpoint to resume from, if any; raises an error before an earlier run's files would be lost."""
    if resume:
        checkpoint = (read_checkpoint if config.shard else load_checkpoint)(out / CHECKPOINT)
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
        remove_shards(out, {})
    text = json.dumps(config.to_dict(), indent=2)
    write_atomically(out / "config.json", lambda file: file.write(text.encode()))


class _Run:
    """One training run: its state, which changes from step to step, and its loop."""

    def __init__(
        self,
        config: TrainConfig,
        datasets: Datasets,
        learner: Learner,
        processes: Processes,
        checkpoint: Checkpoint | None,
        console: Console,
    ) -> None:
        self.config, self.learner, self.processes, self.console = config, learner, processes, console
        self.train_set, self.eval_set = datasets
        self.augment = build_augmentation(
            config.augmentation, self.train_set.tasks, config.crop, config.scale, **config.augmentation_options
        )
        self.tasks = learner.tasks
        self.out = Path(config.out)
        self.first_step = self.step = checkpoint.step if checkpoint else 0
        self.saved = checkpoint.step if checkpoint else None  # the step of the checkpoint
        self.batches = StepBatches(len(self.train_set), config, self.first_step, processes.rank, processes.size)
        self.seconds = 0.0  # what this process has spent in steps, loading included
        self.seconds_per_step = math.nan  # the mean over the steps of this process
        if self.step == config.steps:  # no step is left to measure
            self.seconds_per_step = _measured_before(self.out)

    def fit(self) -> dict[str, float]:
        """Takes the remaining steps, with logs, checkpoints and evaluations; returns the last evaluation's metrics."""
        with bars(self.console) as progress, self._log() as log:
            self._take_steps(log, progress)
            return self._evaluate(log, progress)

    def _log(self) -> AbstractContextManager[SummaryWriter | None]:
        """Opens TensorBoard's log, which the first process writes."""
        folder = str(self.out / "tensorboard")
        return SummaryWriter(folder, purge_step=self.first_step) if self.processes.is_first else nullcontext()

    def _take_steps(self, log: SummaryWriter | None, progress: Progress) -> None:
        config = self.config
        bar = progress.add_task(config.loss, total=config.steps, completed=self.step, status="")
        started = time.perf_counter()
        for batch in self._loader():
            taken = self.learner.take_step(batch, self.step, self.batches.positions(self.step))
            self.step += 1
            saves = self._is_due(config.checkpoint_every)
            logs = saves or self._is_due(config.log_every)
            values = self._finite_values(taken) if logs else {}
            self.seconds += time.perf_counter() - started
            self.seconds_per_step = self.seconds / (self.step - self.first_step)
            progress.update(bar, completed=self.step)
            if logs:
                self._show(values, log, progress, bar)
            if saves:
                self._save()
                if log:
                    self._draw_moved(log, batch, taken[0].alignments)
            if config.eval_every and self.step % config.eval_every == 0 and self.step < config.steps:
                self._evaluate(log, progress)
            started = time.perf_counter()

    def _loader(self) -> DataLoader[Sample]:
        """Returns the loader of this process's batches of the remaining steps."""
        return DataLoader(
            SeededSamples(self.train_set, self.augment),
            batch_sampler=self.batches,
            num_workers=self.config.workers,
            pin_memory=self.learner.device.type == "cuda",
        )

    def _is_due(self, interval: int) -> bool:
        return self.step % interval == 0 or self.step == self.config.steps

    def _finite_values(self, taken: Sequence[Taken]) -> dict[str, float]:
        """Returns the means over parts and processes. This waits for the device, so only logged steps do it."""
        parts = [each.scalars() for each in taken]
        values = self.processes.average({name: sum(part[name] for part in parts) / len(parts) for name in parts[0]})
        if not math.isfinite(values["loss/total"]):
            raise FloatingPointError(f"the loss must be finite, but is not at step {self.step}: {_losses(values)}")
        return values

    def _show(self, values: dict[str, float], log: SummaryWriter | None, progress: Progress, bar: TaskID) -> None:
        # A term that is exactly 0 is off, or has nothing to see.
        status = terms_text({k: v for k, v in _losses(values).items() if v or k == "total"}, self.tasks)
        progress.update(bar, status=status)
        if not self.console.is_terminal:
            say(self.console, f"step {self.step} of {self.config.steps}: {status}")
        if log:
            speed = {
                "train/lr": self.learner.optimizer.param_groups[0]["lr"],
                "train/seconds_per_step": self.seconds_per_step,
                "train/images_per_second": self.config.batch_size / self.seconds_per_step,
            }
            for name, value in {**values, **speed}.items():
                log.add_scalar(name, value, self.step)

    def _save(self) -> None:
        """Writes the checkpoint; a sharded model's is in parts until the last step, and then in one file."""
        checkpoint = Checkpoint(self.config, dict(self.tasks), self.step, *self.learner.states())
        if self.config.shard:
            checkpoint = write_tensors(self.out, checkpoint)
        self.processes.after_first(lambda: self._write(checkpoint), f"saved step {self.step}")
        self.saved = self.step

    def _write(self, checkpoint: Checkpoint) -> None:
        path = self.out / CHECKPOINT
        save_checkpoint(path, checkpoint)
        if checkpoint.shards and self.step == self.config.steps:
            checkpoint = load_checkpoint(path)
            save_checkpoint(path, checkpoint)
        remove_shards(self.out, checkpoint.shards)

    def _draw_moved(self, log: SummaryWriter, batch: Sample, alignments: dict[str, Alignment]) -> None:
        for name, alignment in alignments.items():
            given = [batch[key][:: self.config.accumulate] for key in ("image", name)]
            parts = denormalize(given[0]), given[1], alignment.labels, alignment.displacement
            titles = [f"image {position} of step {self.step}" for position in range(_PICTURED)]
            rows = [MovedLabels(*row) for row in zip(titles, *parts, strict=False)]
            log.add_figure(f"align/{name}", draw_moved(rows, self.tasks[name]), self.step)

    def _evaluate(self, log: SummaryWriter | None, progress: Progress) -> dict[str, float]:
        share_buffers(self.learner.model)
        with gathered(self.learner.model):
            metrics = evaluate(
                self.learner.model,
                self.eval_set,
                tasks=self.tasks,
                size=self.config.eval_size,
                batch_size=self.config.batch_size,
                workers=self.config.workers,
                on_images=counter(progress, "evaluating", len(share_of(len(self.eval_set)))),
            )
        if log:
            for name, value in metrics.items():
                log.add_scalar(f"eval/{name}", value, self.step)
        say(progress.console, f"step {self.step}: {summary(metrics, self.tasks)}")
        return {**metrics, "seconds_per_step": self.seconds_per_step}


def _losses(values: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix("loss/"): value for name, value in values.items() if name.startswith("loss/")}


def _measured_before(out: Path) -> float:
    """Returns the seconds per step that the report of a finished run gives; NaN if it gives none."""
    try:
        value = json.loads((out / METRICS).read_text())["seconds_per_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return math.nan
    return float(value) if isinstance(value, float | int) else math.nan
