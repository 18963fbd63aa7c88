"""A first model is trained on displaced labels; what it predicts decides how they are moved; a second one is trained.

Both have the same seed, so they begin with the same weights and see the same batches.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.common.labels import read_at
from benchmarks.common.results import Json
from benchmarks.common.runs import key_of
from benchmarks.studies.displaced.arms import (
    ARMS,
    CHOSEN_ON,
    DESCENT,
    EXACT,
    INVERSEFORM,
    MAIN,
    OTHERS,
    PERMUTED,
    ROUNDS,
    SHIPPED,
    TUNED,
    arms_of,
    default_loss,
    seeds_of,
)
from benchmarks.studies.displaced.displacements import Displaced, Setting, displaced
from benchmarks.studies.displaced.nearness import BATCH, boundary_distance, mean, nearness
from benchmarks.studies.displaced.registration import Descent
from benchmarks.studies.headless.arms import Arm, Weights
from benchmarks.studies.headless.features import Frames, FrozenModel
from benchmarks.studies.headless.study import CHOOSE, TEST, Job, Study, label
from benchmarks.studies.headless.training import measured, predicted, train_head
from inverseform_fast import InverseTransformNet, LabelAligner
from inverseform_fast.files import write_atomically
from inverseform_fast.inverse_net.config import TuneConfig
from inverseform_fast.inverse_net.noise import estimate_noise
from inverseform_fast.inverse_net.predictions import Predictions, predicted_boundaries
from inverseform_fast.inverse_net.state import STATE
from inverseform_fast.inverse_net.tuning import tune_on
from inverseform_fast.nets.weights import weight_file
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.metrics import SegmentationMetrics

SCHEMA = "inverseform_fast/displaced_study/3"
MODELS = Path("runs/displaced")
BLOCK = 10  # frames in a row, which are resampled together
F3 = 1  # of the tolerances 1, 3 and 5 px
Found = dict[str, float]  # what is known of labels


@dataclass(frozen=True)
class DisplacedJob(Job):
    """A training, or the choice of a descent: ``setting`` says how the labels of its frames are displaced."""

    setting: Setting = EXACT


@dataclass
class DisplacedStudy(Study):
    """All arms in all settings.

    Attributes:
        models: folder of models and of tuned networks, which several arms share.
        settings: those to do, in order.
        tuning: of the networks.
    """

    models: Path = MODELS
    settings: Sequence[Setting] = (*MAIN, *OTHERS)
    arms: Mapping[str, Arm] = field(default_factory=lambda: ARMS)
    tuning: TuneConfig = field(default_factory=TuneConfig)

    def jobs(self) -> Iterator[DisplacedJob]:
        """In the order in which they are to be done: those that a goal is set for come first."""
        main, others = ([each for each in self.settings if each in group] for group in (MAIN, OTHERS))
        yield from self.tests(main, [name for name in self.arms if name in ROUNDS])
        if DESCENT in self.arms:
            for weights in self.arms[DESCENT].weights:
                yield from (self.candidate(DESCENT, weights, setting) for setting in CHOSEN_ON)
        yield from self.tests(main, [name for name in self.arms if name not in ROUNDS])
        yield from self.tests(others, list(self.arms))

    def tests(self, settings: Sequence[Setting], arms: Sequence[str]) -> Iterator[DisplacedJob]:
        """The trainings to be scored on test frames, seed by seed."""
        for seed in self.seeds:
            for setting in settings:
                names = (name for name in arms if name in arms_of(setting))
                yield from (
                    self.test(name, seed, setting) for name in names if seed in seeds_of(name, setting, self.seeds)
                )

    def candidate(self, name: str, weights: Weights, setting: Setting = EXACT) -> DisplacedJob:
        config = self._config(name, 0, *self.held_out)
        return DisplacedJob(CHOOSE, f"{setting.name} {label(name, weights)}", name, weights, config, setting)

    def test(self, name: str, seed: int, setting: Setting = EXACT) -> DisplacedJob:
        config = self._config(name, seed, *self.tested)
        return DisplacedJob(TEST, f"{setting.name} {name}", name, self.chosen(name), config, setting)

    def chosen(self, name: str) -> Weights:
        """The weights of an arm that leave boundaries nearest to the truth, in the mean over ``CHOSEN_ON``.

        Raises:
            KeyError: one of them was not tried yet.
        """
        tries = self.arms[name].weights
        if len(tries) == 1:
            return tries[0]
        left = {key_of(run): run["metrics"]["after_px"] for run in self.finished if run["stage"] == CHOOSE}
        return min(tries, key=lambda weights: sum(left[self.candidate(name, weights, s).key] for s in CHOSEN_ON))

    def run(self, job: Job, device: str) -> None:
        """Do a job unless it is done.

        Raises:
            ValueError: what is there was made in another way.
        """
        for run in self.finished:
            if key_of(run) == job.key and run["net"] != shipped_net(job.arm):
                raise ValueError(f"the results have {job.key} with other shipped weights: move them away")
        super().run(job, device)

    def result(self, job: Job, device: str) -> Json:
        return super().result(job, device) | {"net": shipped_net(job.arm)}

    def measured(self, job: Job) -> tuple[dict[str, float], float]:
        """Move the labels and train; returns how near they are to the truth, and the second model's metrics."""
        assert isinstance(job, DisplacedJob)
        config = job.config
        truth = self.frames(config.train_split)
        given = displaced(truth.labels, job.setting, config.seed)
        if job.arm in ROUNDS:
            labels, found = self.labels(job, truth, given, ROUNDS[job.arm])
            model, seconds = self.model(job, truth, given, ROUNDS[job.arm])
        else:
            labels, found = self.moved(job, truth, given)
            if job.stage == CHOOSE:
                return found, math.nan
            frames, loss = truth._replace(labels=labels), self.arms[job.arm].make(job.weights)
            model, seconds = train_head(config, self.tasks, frames, loss)
        metric = measured(model, self.tasks["semantic"], self.frames(config.eval_split), config.batch_size)
        assert isinstance(metric, SegmentationMetrics)
        f_scores = torch.cat(metric.boundaries.f_scores)[:, F3]
        blocks = {f"block/{i}": mean(each.nanmean(0)) for i, each in enumerate(f_scores.split(BLOCK))}
        return metric.compute() | found | blocks, seconds

    def labels(self, job: DisplacedJob, truth: Frames, given: Displaced, rounds: int) -> tuple[Tensor, Found]:
        """The labels after so many rounds of alignment, and how near they were and are to the truth."""
        if not rounds:
            return given.labels, {"before_px": mean(boundary_distance(given.labels, truth.labels))}
        labels, motion = aligned(LabelAligner(), self.logits(job, truth, given, rounds - 1), given.labels)
        return labels, nearness(truth.labels, given, labels, motion)

    def model(self, job: DisplacedJob, truth: Frames, given: Displaced, rounds: int) -> tuple[FrozenModel, float]:
        """The model that is trained on these labels, and the CPU seconds of its steps; it is kept in a file.

        Raises:
            ValueError: the file's model was trained by another configuration.
        """
        path = self.folder(job) / f"model{rounds}.pt"
        if not path.exists():
            labels, _ = self.labels(job, truth, given, rounds)
            model, seconds = train_head(job.config, self.tasks, truth._replace(labels=labels), default_loss(()))
            saved = {"config": job.config.to_dict(), "model": model.state_dict(), "seconds": seconds}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: torch.save(saved, file))
        saved = torch.load(path, weights_only=True)
        if changed := [*TrainConfig.from_dict(saved["config"]).difference(job.config)]:
            raise ValueError(f"{path} was trained with another {', '.join(changed)}: move it away")
        model = FrozenModel(job.config, self.tasks)
        model.load_state_dict(saved["model"])
        return model, saved["seconds"]

    def logits(self, job: DisplacedJob, truth: Frames, given: Displaced, rounds: int) -> Tensor:
        """What that model predicts of the frames that it was trained on."""
        model, _ = self.model(job, truth, given, rounds)
        return torch.cat([batch for batch, _ in predicted(model, "semantic", truth, BATCH)])

    def folder(self, job: DisplacedJob) -> Path:
        return self.models / job.config.train_split / f"{job.setting.name}-{job.config.seed}".replace(" ", "-")

    def moved(self, job: DisplacedJob, truth: Frames, given: Displaced) -> tuple[Tensor, Found]:
        """The labels after another arm moved them, or left them, and how near they were and are to the truth."""
        if job.arm == INVERSEFORM:
            return self.labels(job, truth, given, 0)
        logits = self.logits(job, truth, given, 0)
        if job.arm == PERMUTED:
            _, motion = aligned(LabelAligner(), logits, given.labels)
            motion = motion[derangement(len(motion), job.config.seed)]
            labels = read_at(given.labels, motion)
            return labels, nearness(truth.labels, given, labels, motion)
        maps = [predicted_boundaries({"semantic": batch}, job.config.crop) for batch in logits.split(BATCH)]
        net = self.instrument(job, Predictions(torch.cat(maps), given.labels))
        labels, motion = aligned(LabelAligner(net), logits, given.labels)
        noise = math.nan if net.noise is None else net.noise * net.tile / 2
        return labels, {"noise_px": noise, **nearness(truth.labels, given, labels, motion)}

    def instrument(self, job: DisplacedJob, predictions: Predictions) -> InverseTransformNet:
        """What reads displacements in an arm."""
        if job.arm == SHIPPED:
            return InverseTransformNet.from_file(weight_file(self.tuning.net))
        if job.arm == DESCENT:
            blur, rate, steps, dead_zone = job.weights
            descent = Descent(blur, rate, int(steps))
            descent.noise = estimate_noise(descent, predictions) if dead_zone else None
            return descent
        folder = self.folder(job) / "net"
        path = folder / "tuned.safetensors"
        if not path.exists():
            resume, quiet = (folder / STATE).exists(), Console(quiet=True)
            tune_on(predictions, self.tuning, folder, resume=resume, console=quiet).save(path)
        return InverseTransformNet.from_file(path)


def aligned(aligner: LabelAligner, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The labels that the aligner makes, and its motion."""
    parts = [aligner.align(*pair) for pair in zip(logits.split(BATCH), labels.split(BATCH), strict=True)]
    return torch.cat([part.labels for part in parts]), torch.cat([part.displacement for part in parts])


def shipped_net(arm: str) -> str | None:
    """A digest of the shipped weights, if the arm depends on them."""
    name = {TUNED: "predictions", SHIPPED: "predictions", INVERSEFORM: "compact"}.get(arm)
    return name and hashlib.sha256(weight_file(name).read_bytes()).hexdigest()[:16]


def derangement(count: int, seed: int) -> Tensor:
    """Random indices (count,) of which none is its own place, as far as there is another one."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order.roll(1)[order.argsort()]
