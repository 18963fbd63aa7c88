"""Which trainings there are, in which order, and which weights they have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

from benchmarks.common.results import Json
from benchmarks.common.runs import key_of, rounded, score
from benchmarks.studies.headless.arms import ARMS, Arm, Weights
from benchmarks.studies.headless.features import Frames, frames_of
from benchmarks.studies.headless.training import scored, train_head
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.evaluation import open_dataset
from inverseform_fast.segmentation.models.lite0 import LITE0
from inverseform_fast.segmentation.tasks import Task

SCHEMA = "inverseform_fast/headless_study/1"
CHOOSE, TEST = "choose", "test"
FEATURES = Path("runs/headless")
SEEDS = tuple(range(12))  # of the main arms on test frames
# The arms have losses of their own; the first runs did not know all of these options.
UNUSED: Json = {"edge": 1.0, "dice": 1.0, "f1": 16.0}
SCHEDULE: Json = {"backbone": LITE0, "pretrained": True, "crop": (224, 288), "steps": 300, "batch_size": 8}


@dataclass(frozen=True)
class Job:
    """A training: the stage is ``"choose"`` or ``"test"``; ``label`` says which of the stage's."""

    stage: str
    label: str
    arm: str
    weights: Weights
    config: TrainConfig

    @property
    def key(self) -> tuple[str, str, int]:
        return self.stage, self.label, self.config.seed


@dataclass
class Study:
    """All trainings, and the results of those that are finished.

    Attributes:
        root: folder of the data set ``data``.
        runs: folder of the cached features.
        arms: those to train.
        seeds: of the main arms on test frames; the others have the first.
        held_out: splits to train and to score on where weights are chosen.
        tested: the same for the result.
        threads: of the CPU.
        finished: what became of each training.
    """

    root: Path | None = None
    runs: Path = FEATURES
    schedule: Json = field(default_factory=lambda: SCHEDULE)
    arms: Mapping[str, Arm] = field(default_factory=lambda: ARMS)
    seeds: Sequence[int] = SEEDS
    data: str = "camvid"
    data_options: Json = field(default_factory=dict)
    held_out: tuple[str, str] = ("fit", "holdout")
    tested: tuple[str, str] = ("train", "test")
    threads: int = 1
    finished: list[Json] = field(default_factory=list)

    def jobs(self) -> Iterator[Job]:
        """In the order in which they are to be done: first every choice, by which those on test frames have weights.

        Of the choices, the first try of every arm comes first.
        """
        for tries in zip_longest(*([(name, weights) for weights in arm.weights] for name, arm in self.arms.items())):
            yield from (self.candidate(*each) for each in tries if each)
        for seed in self.seeds:
            for name, arm in self.arms.items():
                if arm.main or seed == self.seeds[0]:
                    yield self.test(name, seed)

    def candidate(self, name: str, weights: Weights) -> Job:
        return Job(CHOOSE, label(name, weights), name, weights, self._config(name, 0, *self.held_out))

    def test(self, name: str, seed: int) -> Job:
        return Job(TEST, name, name, self.chosen(name), self._config(name, seed, *self.tested))

    def chosen(self, name: str) -> Weights:
        """The weights of an arm with the best score on held-out frames.

        Raises:
            KeyError: one of them was not tried yet.
        """
        scores = {key_of(run): score(run) for run in self.finished}
        return max(self.arms[name].weights, key=lambda weights: scores[self.candidate(name, weights).key])

    def _config(self, name: str, seed: int, train_split: str, eval_split: str) -> TrainConfig:
        return TrainConfig(
            data=self.data, data_options=self.data_options, root=str(self.root) if self.root else None, seed=seed,
            threads=self.threads, loss="ce", net="compact", **UNUSED, boundary_head=self.arms[name].boundary_head,
            train_split=train_split, eval_split=eval_split, **self.schedule,
        )  # fmt: skip

    def run(self, job: Job, device: str) -> None:
        """Do a job unless it is done.

        Raises:
            ValueError: what is there was trained by another configuration or with other weights.
        """
        for run in self.finished:
            if key_of(run) == job.key:
                changed = [*TrainConfig.from_dict(UNUSED | run["config"]).difference(job.config)]
                changed += ["weights"] * (tuple(run["weights"]) != job.weights)
                if changed:
                    raise ValueError(f"the results have {job.key} with another {', '.join(changed)}: move them away")
                return
        print(f"{job.stage}: {job.label}, seed {job.config.seed}", flush=True)
        self.finished.append(self.result(job, device))

    def result(self, job: Job, device: str) -> Json:
        config, (metrics, seconds) = job.config, self.measured(job)
        no_paths = {"root": None}  # of this machine
        return {
            "stage": job.stage, "label": job.label, "seed": config.seed, "arm": job.arm, "weights": list(job.weights),
            "device": device, "config": config.to_dict() | no_paths, "cpu_seconds": rounded(seconds),
            "metrics": {name: rounded(value) for name, value in metrics.items()},
        }  # fmt: skip

    def measured(self, job: Job) -> tuple[dict[str, float], float]:
        """Train; returns the metrics, and the CPU seconds of the steps."""
        config = job.config
        train_frames, eval_frames = (self.frames(split) for split in (config.train_split, config.eval_split))
        model, seconds = train_head(config, self.tasks, train_frames, self.arms[job.arm].make(job.weights))
        return scored(model, self.tasks["semantic"], eval_frames, config.batch_size), seconds

    @cached_property
    def tasks(self) -> dict[str, Task]:
        return open_dataset(self._config(next(iter(self.arms)), 0, *self.tested), self.tested[0]).tasks

    def frames(self, split: str) -> Frames:
        return frames_of(self._config(next(iter(self.arms)), 0, *self.tested), split, self.runs / f"{split}.pt")


def label(name: str, weights: Weights) -> str:
    return " ".join([name, *(f"{weight:g}" for weight in weights)])
