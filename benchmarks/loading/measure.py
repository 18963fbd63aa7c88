"""Loading and steps are timed with the trainer's own parts."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.common.results import Json
from inverseform_fast.bench.timing import spread
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import Scenes, SegmentationDataset
from inverseform_fast.segmentation.datasets.base import Transform
from inverseform_fast.segmentation.evaluation import open_dataset
from inverseform_fast.segmentation.processes import Processes
from inverseform_fast.segmentation.training.criterion import Criterion
from inverseform_fast.segmentation.training.learner import Learner
from inverseform_fast.segmentation.training.sampling import SeededSamples, StepBatches
from inverseform_fast.segmentation.transforms import build_augmentation

WORKERS = (0, 2)
TARGETS = {"depth": "depth", "normals": "normals", "edges": "edge"}  # the folder of each task's files


def write_nyud(root: Path, size: tuple[int, int], count: int) -> None:
    """Writes made scenes as files of NYU-Depth-v2, in the layout of ``nyud_mt``."""
    scenes = Scenes("train", size, count, tasks=["semantic", *TARGETS])
    for folder in ("gt_sets", "images", "segmentation", *TARGETS.values()):
        (root / folder).mkdir()
    (root / "gt_sets/train.txt").write_text("\n".join(scenes.names))
    for index, name in enumerate(scenes.names):
        sample = {key: value.numpy() for key, value in scenes.read(index).items()}
        Image.fromarray(sample["image"].transpose(1, 2, 0)).save(root / f"images/{name}.jpg", quality=95)
        Image.fromarray(sample["semantic"] + np.uint8(1)).save(root / f"segmentation/{name}.png")  # 255 becomes 0
        sample["normals"] = np.where(sample["normals"] == 255, 0, sample["normals"]).transpose(1, 2, 0)
        for task, folder in TARGETS.items():
            np.save(root / folder / f"{name}.npy", np.ascontiguousarray(sample[task], np.float32))


def measured(config: TrainConfig, rounds: int) -> Json:
    """Milliseconds of reading and augmenting an image, and of loading and taking steps.

    Times of the clock depend on what else the machine does; those of this process's CPU time hardly do.
    """
    dataset = open_dataset(config, config.train_split)
    options = config.augmentation_options
    augment = build_augmentation(config.augmentation, dataset.tasks, config.crop, config.scale, **options)
    learner = Learner(config, dataset.tasks, Criterion, Processes(torch.device("cpu")), None)
    setting = {name: getattr(config, name) for name in ("model", "backbone", "batch_size")}
    return {
        "setting": setting | {"crop": list(config.crop), "tasks": list(dataset.tasks)},
        "image_cpu_ms": parts(dataset, augment, rounds),
        "steps": {str(workers): loop(config, dataset, augment, learner, workers, rounds) for workers in WORKERS},
    }


def parts(dataset: SegmentationDataset, augment: Transform, rounds: int) -> Json:
    """Milliseconds of CPU time that reading and augmenting an image take."""
    read, augmented = [], []
    for turn in range(rounds + 1):
        begin = time.process_time()
        sample = dataset[turn % len(dataset)]
        middle = time.process_time()
        augment(sample)
        read.append(1e3 * (middle - begin))
        augmented.append(1e3 * (time.process_time() - middle))
    return {"read": spread(read[1:])._asdict(), "augment": spread(augmented[1:])._asdict()}  # the first one warms up


def loop(
    config: TrainConfig,
    dataset: SegmentationDataset,
    augment: Transform,
    learner: Learner,
    workers: int,
    rounds: int,
) -> Json:
    """Milliseconds of waiting for a batch and of a step with it, by the clock and in CPU time of this process."""
    batches = StepBatches(len(dataset), dataclasses.replace(config, steps=rounds + 1))
    loader = iter(DataLoader(SeededSamples(dataset, augment), batch_sampler=batches, num_workers=workers))
    times = []
    for step in range(rounds + 1):
        points = [_clocks()]
        batch = next(loader)
        points.append(_clocks())
        learner.take_step(batch, step, batches.positions(step))
        points.append(_clocks())
        times.append(1e3 * np.diff(points, axis=0))
    wait, taken = np.stack(times[1:], -1)  # the first step makes constants, and the first wait starts the workers
    return {
        f"{name}_{clock}": spread(samples.tolist())._asdict()
        for name, both in (("wait", wait), ("step", taken))
        for clock, samples in zip(("ms", "cpu_ms"), both, strict=True)
    }


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
