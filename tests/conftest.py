"""Shared by all tests: one thread, so that a run is repeatable and machines with two cores are not oversubscribed."""

from __future__ import annotations

import pytest
import torch

from inverseform_fast.nets import Compact

torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    """File of a small inverse-transformation network; what it says does not matter where it is used."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    Compact(tile=32).save(path)
    return str(path)
