"""Shared by all tests: one thread, so that a run is repeatable and machines with two cores are not oversubscribed."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
