"""The samples of a step's batch, and their augmentation, are functions of the configuration and the step alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ..config import TrainConfig
from ..datasets import Sample, SegmentationDataset
from ..datasets.base import Transform


def derived_seed(*parts: int) -> int:
    """Mixes non-negative integers into a 63-bit seed."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


def check_divides(config: TrainConfig, size: int) -> None:
    """Checks that a batch can be cut into equal parts.

    Args:
        size: number of processes.

    Raises:
        ValueError: it cannot.
    """
    if config.batch_size % (size * config.accumulate):
        parts = f"{size * config.accumulate}, for {size} processes times accumulate {config.accumulate}"
        raise ValueError(f"batch_size must be a multiple of {parts}, got {config.batch_size}")


class StepBatches(Sampler[list[tuple[int, int]]]):
    """Yields a batch of (sample index, augmentation seed) for each of the steps ``first`` .. ``steps - 1``.

    Each pass over the data is a fresh permutation. A batch may span two passes, so any batch size fits any data set.
    Each of ``size`` processes, this one being ``rank``, gets its own part of the batch.
    """

    def __init__(self, length: int, config: TrainConfig, first: int = 0, rank: int = 0, size: int = 1) -> None:
        self.length, self.config, self.first = length, config, first
        self.rank, self.share = rank, config.batch_size // size

    def __len__(self) -> int:
        return self.config.steps - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, torch.empty(0)
        for step in range(self.first, self.config.steps):
            batch = []
            for position in self.positions(step):
                if position // self.length != epoch:
                    epoch = position // self.length
                    generator = torch.Generator().manual_seed(derived_seed(self.config.seed, 0, epoch))
                    order = torch.randperm(self.length, generator=generator)
                batch.append((int(order[position % self.length]), derived_seed(self.config.seed, 1, position)))
            yield batch

    def positions(self, step: int) -> range:
        """Returns the numbers of this process's samples of a step, in the order of all samples of the training."""
        start = step * self.config.batch_size + self.rank * self.share
        return range(start, start + self.share)


class SeededSamples(Dataset[Sample]):
    """Augments samples; all randomness comes from the seed in the key, whichever process computes the sample."""

    def __init__(self, dataset: SegmentationDataset, transform: Transform) -> None:
        self.dataset = dataset
        self.transform = transform

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, seed = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.transform(self.dataset[index])
