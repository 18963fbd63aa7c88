"""All tests run on one thread, so that a run is repeatable and machines with two cores are not oversubscribed."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import cuda_on_a_cpu
import pytest
import torch
from torch import Tensor

import inverseform_fast as iff
from inverseform_fast import functional
from inverseform_fast.nets import Align

if TYPE_CHECKING:
    from so3_truth import So3

SO3 = [  # implementations: backend, and what ATEN_CPU_CAPABILITY says
    pytest.param(("reference", ""), id="reference"),
    pytest.param(("cpu", ""), id="best SIMD"),
    pytest.param(("cpu", "avx2"), id="AVX2"),
    pytest.param(("cpu", "default"), id="scalar"),
    pytest.param(("cuda", ""), id="CUDA", marks=pytest.mark.gpu),
    pytest.param(("CUDA on a CPU", ""), id="CUDA on a CPU"),
]

torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    elsewhere = [item for item in items if item.get_closest_marker("gpu") and not torch.cuda.is_available()]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in elsewhere]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a small network, for tests in which its estimates do not matter."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    Align(tile=32).save(path)
    return str(path)


@pytest.fixture(scope="module")
def quick_garbage_collection() -> Iterator[None]:
    """Measurements collect garbage; this hides the imported modules from the collector, which saves 0.2 s each."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings draw nothing here: a picture takes longer than a few small steps, and other tests look at pictures."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)


@pytest.fixture
def g(generator: torch.Generator) -> torch.Generator:
    return generator


@pytest.fixture(params=SO3)
def so3(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[So3]:
    """project_to_so3 and geodesic_distance of one implementation; they take and return CPU tensors."""
    backend, capability = request.param
    if backend == "CUDA on a CPU":
        backend = "cpu"
        request.getfixturevalue("cuda_kernels_on_a_cpu")
    _require(backend)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
    with iff.set_backend(backend):
        names = ("project_to_so3", "geodesic_distance")
        on_cuda = SimpleNamespace(**{name: _on_cuda(name) for name in names})
        yield cast("So3", on_cuda if backend == "cuda" else functional)


@pytest.fixture(scope="session")
def so3_on_a_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of so3_cuda.cu's kernels for a CPU; xdist's processes build it once."""
    if cuda_on_a_cpu.COMPILER is None:
        pytest.skip("there is no C++ compiler")
    worker = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if worker else base) / "so3_on_a_cpu"
    folder.mkdir(exist_ok=True)
    return cuda_on_a_cpu.build(folder)


@pytest.fixture
def cuda_kernels_on_a_cpu(so3_on_a_cpu: Path) -> Iterator[None]:
    with cuda_on_a_cpu.so3_kernels(so3_on_a_cpu):
        yield


@pytest.fixture(params=["", "avx2", "default"], ids=["best SIMD", "AVX2", "scalar"])
def cpu_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test runs with every kernel of the C++ extension for CPUs, in turn."""
    _require("cpu")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", request.param)
    with iff.set_backend("cpu"):
        yield


def _require(backend: str) -> None:
    """Skip the test where the backend cannot run, and say why."""
    state = iff.backend_info()["backends"][backend]
    if state not in ("active", "available"):
        pytest.skip(state)


def _on_cuda(name: str) -> Callable[..., Tensor]:
    op = getattr(functional, name)
    return lambda *matrices, **options: op(*(m.cuda() for m in matrices), **options).cpu()
