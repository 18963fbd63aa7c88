"""The kernels' tests run on a GPU, or on a CPU in a process of its own: ``TRITON_INTERPRET=1 pytest -m triton``.

``KERNEL_SEED=7`` draws other random inputs than usual.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

import inverseform_fast as iff
from inverseform_fast.ops.backend import INTERPRETED, MISSING

SEED = int(os.environ.get("KERNEL_SEED", "0"))
RUNS = INTERPRETED or torch.cuda.is_available()
if RUNS:
    settings.register_profile("kernels", derandomize=not SEED, deadline=None)
    settings.load_profile("kernels")
# The compiler needs Triton, and a process without the interpreter.
collect_ignore = ["test_cubins.py"] if INTERPRETED or MISSING["triton"] else []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    elsewhere = [item for item in items if item.get_closest_marker("triton") and not RUNS]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in elsewhere]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(SEED)


@pytest.fixture(autouse=True)
def triton_backend(request: pytest.FixtureRequest) -> Iterator[None]:
    if not request.node.get_closest_marker("triton"):
        yield
        return
    with iff.set_backend("triton"):
        yield
