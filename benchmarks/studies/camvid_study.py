"""The study measures what the loss brings on CamVid: each loss trains one model by one schedule, with the same seeds.

``python -m benchmarks.studies.camvid_study --root CAMVID`` first chooses beta, radius and gamma on frames held out of
the train split, then trains the arms on all of it and scores them on the test split. A stopped study continues where it
was: what the results file has is not trained again, and an interrupted training resumes. Without ``--root`` nothing is
trained. ``make docs`` turns the results into docs/measured/results.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from benchmarks.common import results
from benchmarks.common.machine import ON_GPU, machine
from benchmarks.common.paths import RESULTS
from benchmarks.common.results import Json
from benchmarks.common.runs import key_of, load, rounded, score, write
from benchmarks.studies import ablation
from inverseform_fast.bench import release
from inverseform_fast.functional import boundary_map
from inverseform_fast.losses import nearest_multiples
from inverseform_fast.segmentation.checkpoint import CHECKPOINT
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.report import METRICS
from inverseform_fast.segmentation.tasks import Task
from inverseform_fast.segmentation.training.criterion import Criterion
from inverseform_fast.segmentation.training.run import MakeCriterion, train

SCHEDULES: dict[str, Json] = {
    "cpu": {"backbone": "test_resnet", "crop": (224, 224), "batch_size": 8, "steps": 800, "threads": 1},
    "gpu": {"backbone": "hrnet_w18", "crop": (360, 480), "batch_size": 16, "steps": 4000, "workers": 12},
}
SCHEMA = "inverseform_fast/camvid_study/1"
TILE = release.TILE  # the shipped network has the same
CURVE = 4  # evaluations in a run
# The choices are made in this order, each with the best of those before it. Without a boundary head the boundary BCE
# pulls at the classes themselves, and needs another weight.
CHOICES: dict[str, dict[str, tuple[float, ...]]] = {
    "head": {"beta": (1.0, 3.0, 10.0, 30.0), "radius": (1, 2, 3), "gamma": (0.3, 1.0)},
    "headless": {"beta": (0.3, 1.0, 3.0), "gamma": (0.3, 1.0)},
}
ALONE: Json = {
    "edge": 0.0,
    "dice": 0.0,
    "f1": 0.0,
}  # the terms that this study is not about; its first runs did not know them
START = {"beta": 10.0, "radius": 2, "gamma": 0.0}


@dataclass(frozen=True)
class Arm:
    """A loss that is compared with others.

    Attributes:
        name: its name in tables.
        options: its options of TrainConfig.
        main: whether it is trained with every seed.
        start: share of the steps before InverseForm counts.
        zoom: how many times InverseForm enlarges the crop in each direction; a tile then shows less of it.
        criterion: makes the loss.
    """

    name: str
    options: Json
    main: bool = False
    start: float = 0.0
    zoom: int = 1
    criterion: MakeCriterion = Criterion


class WithRelease(Criterion):
    """Our cross-entropy and boundary BCE, and the release's distance term, which has no gradient."""

    def __init__(self, config: TrainConfig, tasks: Mapping[str, Task]) -> None:
        super().__init__(config, tasks)
        self.weight, self.radius, self.void = config.gamma, config.radius, int(tasks["semantic"].void)
        self.inverseform = release.InverseForm()

    def forward(
        self,
        predictions: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        step: int,
        counts: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        terms = super().forward(predictions, targets, step, counts)
        boundary = boundary_map(targets["semantic"], self.radius, self.void) == 1
        term = self.inverseform(predictions["boundary"], boundary)
        return terms | {"total": terms["total"] + self.weight * term, "semantic/inverseform": term}


DENSE = "dense-log"  # its name in ablation.py
HEADLESS = {"boundary_head": False}
ARMS = {
    "ce": Arm("cross-entropy", HEADLESS | {"loss": "ce"}, main=True),
    "boundary": Arm("+ boundary BCE", {"loss": "boundary"}, main=True),
    "log": Arm("+ InverseForm, log", {}, main=True),
    "headless-boundary": Arm("+ boundary BCE, headless", HEADLESS | {"loss": "boundary"}, main=True),
    "headless-log": Arm("+ InverseForm, log, headless", HEADLESS, main=True),
    "headless-default": Arm("+ InverseForm, log, headless, gamma 0.3", HEADLESS | {"gamma": 0.3}, main=True),
    "euclidean": Arm("+ InverseForm, Euclidean", {"distance": "euclidean"}),
    "geodesic": Arm("+ InverseForm, geodesic", {"distance": "geodesic"}),
    "dense": Arm("+ InverseForm, log, dense network", {"net": str(ablation.Study().weights(DENSE))}),
    "late": Arm("+ InverseForm, log, in the last half", {}, start=0.5),
    "small-tiles": Arm("+ InverseForm, log, in the last half, tiles half as large", {}, start=0.5, zoom=2),
    "release": Arm("+ the release's term", {"loss": "boundary"}, criterion=WithRelease),
}


@dataclass(frozen=True)
class Job:
    """A training of the stage ``"choose"`` or ``"test"``; ``label`` names it within the stage."""

    stage: str
    label: str
    seed: int
    config: TrainConfig
    criterion: MakeCriterion = Criterion

    @property
    def key(self) -> tuple[str, str, int]:
        return self.stage, self.label, self.seed


@dataclass
class Study:
    """All trainings, and the results of those that are finished.

    Attributes:
        root: folder of the data set ``data``; None if nothing is trained.
        runs: folder of what is being trained.
        schedule: options of TrainConfig for the test stage.
        seeds, more_seeds: seeds of the main arms, and of the other ones.
        arms: names of the arms to train.
        data, data_options: the data set and its options.
        held_out: splits to train and to score on for the choices.
        finished: what :func:`result` made of each training.
        chosen: results of another study, whose choices this study takes over; if given, it makes none.
    """

    root: Path | None = None
    runs: Path = Path("runs/camvid_study")
    schedule: Json = field(default_factory=lambda: SCHEDULES["cpu"])
    seeds: Sequence[int] = (0, 1, 2)
    more_seeds: Sequence[int] = (0,)
    arms: tuple[str, ...] = tuple(ARMS)
    data: str = "camvid"
    held_out: tuple[str, str] = ("fit", "holdout")
    data_options: Json = field(default_factory=lambda: {"cache": True})
    finished: list[Json] = field(default_factory=list)
    chosen: list[Json] = field(default_factory=list)

    def jobs(self) -> Iterator[Job]:
        """Yield the trainings in order; one that depends on a choice is made only after the choice."""
        for host, choices in (CHOICES if not self.chosen else {}).items():
            for name, values in choices.items():
                before = self.settings(host, until=name)
                yield from (self.candidate(host, before | {name: value}) for value in values)
        for seed in sorted({*self.seeds, *self.more_seeds}):
            for name in self.arms:
                if seed in (self.seeds if ARMS[name].main else self.more_seeds):
                    yield self.test(name, seed)

    def settings(self, host: str, until: str | None = None) -> dict[str, float]:
        """Choose beta, radius and gamma for a host, up to the choice before ``until``; the rest is as in START."""
        settings, scores = dict(START), {key_of(run): score(run) for run in self.chosen or self.finished}
        for name, values in CHOICES[host].items():
            if name == until:
                break
            keys = {value: self.candidate(host, settings | {name: value}).key for value in values}
            settings[name] = max(values, key=lambda value: scores[keys[value]])
        return settings

    def candidate(self, host: str, settings: dict[str, float]) -> Job:
        """Make a training for a choice: half as long, on a part of the train split, scored on what was held out."""
        loss = "inverseform" if settings["gamma"] else "boundary"
        label = ", ".join([host, *(f"{name} {value:g}" for name, value in settings.items())])
        fit, holdout = self.held_out
        options = {"train_split": fit, "eval_split": holdout, "steps": self.schedule["steps"] // 2, "loss": loss}
        options |= {name: value for name, value in settings.items() if (name, value) != ("gamma", 0)}
        options["boundary_head"] = host == "head"
        return Job("choose", label, 0, self._config("choose", label, 0, options))

    def test(self, name: str, seed: int) -> Job:
        """Make a training of an arm, scored on the test split."""
        arm = ARMS[name]
        options = {"eval_split": "test", "eval_every": self.schedule["steps"] // CURVE} | arm.options
        if options.get("loss") != "ce":
            options = self.settings("head" if options.get("boundary_head", True) else "headless") | options
        options["inverseform_start"] = int(arm.start * self.schedule["steps"])
        if arm.zoom > 1:
            size = nearest_multiples(torch.empty(self.schedule["crop"]), TILE)
            options["resize"] = (arm.zoom * size[0], arm.zoom * size[1])
        return Job("test", name, seed, self._config("test", name, seed, options), arm.criterion)

    def _config(self, stage: str, label: str, seed: int, options: Json) -> TrainConfig:
        out = self.runs / stage / f"{label.replace(', ', '-').replace(' ', '')}-{seed}"
        common: Json = {
            "data": self.data, "data_options": self.data_options, "amp": "bf16", "checkpoint_every": 100,
            "loss": "inverseform", "boundary_head": True, "net": "compact", **ALONE,
        }  # fmt: skip
        return TrainConfig(
            root=str(self.root) if self.root else None, out=str(out), seed=seed, **common | self.schedule | options
        )

    def run(self, job: Job, device: str) -> None:
        """Do a job, unless its result is there.

        Raises:
            ValueError: the result that is there has another configuration.
        """
        for run in self.finished:
            if key_of(run) == job.key:
                if changed := TrainConfig.from_dict(ALONE | run["config"]).difference(job.config):
                    raise ValueError(f"the results have {job.key} with another {', '.join(changed)}: move them away")
                return
        print(f"{job.stage}: {job.label}, seed {job.seed}", flush=True)
        out = Path(job.config.out)
        if job.label == "dense":
            ablation.Study(root=self.root).run("networks", DENSE)  # trains its network, if it is not there
        if not (out / METRICS).exists():
            train(job.config, resume=(out / CHECKPOINT).exists(), criterion=job.criterion)
        self.finished.append(result(job, device))


def result(job: Job, device: str) -> Json:
    """Read the folder of a finished training: its metrics, and its curves from the TensorBoard logs."""
    out = Path(job.config.out)
    logs = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    curves = {
        tag.replace("loss/semantic/", "loss/"): [[event.step, rounded(event.value)] for event in logs.Scalars(tag)]
        for tag in logs.Tags()["scalars"]
        if (tag.startswith("loss/") and not tag.endswith("/semantic/total"))
        or tag.removeprefix("eval/") in ("miou", "mba", "boundary_f_3px")
    }
    no_paths = {"root": None, "out": out.name}  # paths of this machine do not belong into results
    config = results.read(out / "config.json") | no_paths
    metrics = {name: rounded(value) for name, value in results.read(out / METRICS).items()}
    stage, label, seed = job.key
    return {
        "stage": stage, "label": label, "seed": seed, "device": device, "config": config, "metrics": metrics,
        "curves": curves,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of CamVid; without it nothing is trained")
    parser.add_argument(
        "--out", type=Path, help="JSON file to add the results to; by default camvid_study_cpu.json or _gpu.json"
    )
    parser.add_argument(
        "--choices", type=Path, help="file to take beta, radius and gamma from; on a GPU the CPU's by default"
    )
    parser.add_argument("--runs", type=Path, default=Study.runs, help="folder of what is being trained")
    parser.add_argument("--schedule", choices=SCHEDULES, default="gpu" if ON_GPU else "cpu")
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS), help="arms to train; none: only choose")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of the main arms")
    parser.add_argument("--more-seeds", nargs="+", type=int, default=[0], help="seeds of the other arms")
    parser.add_argument("--steps", type=int, help="training steps in place of the schedule's")
    options = parser.parse_args()
    schedule = SCHEDULES[options.schedule] | ({"steps": options.steps} if options.steps else {})
    out = options.out or RESULTS / f"camvid_study_{options.schedule}.json"
    choices = options.choices or (RESULTS / "camvid_study_cpu.json" if options.schedule == "gpu" else None)
    study = Study(
        options.root, options.runs, schedule, options.seeds, options.more_seeds, tuple(options.arms),
        finished=load(out), chosen=load(choices) if choices else [],
    )  # fmt: skip
    about = machine()
    save = partial(write, out, SCHEMA, study.finished, about)
    if options.root:
        for job in study.jobs():
            study.run(job, about["device"])
            save()


if __name__ == "__main__":
    main()
