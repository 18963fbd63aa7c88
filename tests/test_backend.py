"""The backend switch, and the check that every op's tests import: any way of calling it gives the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import inverseform_fast as iff
from inverseform_fast import reference
from inverseform_fast.ops import backend

OPS = {
    "align",
    "boundary_loss",
    "boundary_map",
    "extract_tiles",
    "geodesic_distance",
    "homography_warp",
    "local_correlation",
    "project_to_so3",
    "segmentation_loss",
    "soft_boundary_map",
}


SO3 = {"geodesic_distance", "project_to_so3"}


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "batch innermost": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "every other column": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x,
}
CONTEXTS: dict[str, Callable[[str], Any]] = {
    "autocast": lambda device: torch.autocast(device, torch.bfloat16),
    "deterministic": lambda _: deterministic(),
}
ways = pytest.mark.parametrize("way", ["compiled", *CONTEXTS, *LAYOUTS])


def assert_same_when_called(way: str, op: Callable[..., Any], *inputs: Any, **options: Any) -> None:
    """Results, their dtypes, and gradients are those of the plain call; the inputs are left alone."""
    before = [x.clone() if isinstance(x, Tensor) else x for x in inputs]
    expected = results_and_gradients(op, *inputs, **options)
    torch.testing.assert_close(list(inputs), before, rtol=0, atol=0)

    lay_out = LAYOUTS.get(way, Tensor.clone)
    inputs = tuple(lay_out(x) if isinstance(x, Tensor) else x for x in inputs)
    if way == "compiled":
        torch.compiler.reset()
        op = torch.compile(op, fullgraph=True, backend="aot_eager")
    with CONTEXTS.get(way, nullcontext)(next(x.device.type for x in inputs if isinstance(x, Tensor))):
        actual = results_and_gradients(op, *inputs, **options)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def results_and_gradients(op: Callable[..., Any], *inputs: Any, **options: Any) -> list[Tensor]:
    inputs = tuple(x.detach().requires_grad_(x.is_floating_point()) if isinstance(x, Tensor) else x for x in inputs)
    results = op(*inputs, **options)
    results = list(results) if isinstance(results, tuple) else [results]
    scalar = sum((r * torch.linspace(-1, 1, r.numel(), device=r.device).view(r.shape)).sum() for r in results)
    floating = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    gradients = torch.autograd.grad(scalar, floating, allow_unused=True) if floating else ()
    return [result.detach() for result in results] + [g for g in gradients if g is not None]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    with iff.set_backend("auto"):
        yield


@pytest.fixture
def triton_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Triton ran here, so that there are two backends to choose between."""
    why_not = backend._why_not
    monkeypatch.setattr(backend, "_why_not", lambda name: None if name == "triton" else why_not(name))


def active() -> str:
    (name,) = {name for op, name in iff.backend_info()["ops"].items() if op not in SO3}
    return name


def test_what_is_active_and_why_the_rest_is_not() -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU runs Triton")
    info = iff.backend_info()
    assert info["ops"] == dict.fromkeys(OPS, "cpu")
    no_gpu = "torch sees no CUDA device"
    assert info["backends"] == {"reference": "available", "cpu": "active", "triton": no_gpu, "cuda": no_gpu}


def test_a_backend_runs_the_ops_that_it_has(triton_runs: None) -> None:
    iff.set_backend("triton")
    info = iff.backend_info()
    assert info["ops"] == {name: "reference" if name in SO3 else "triton" for name in OPS}
    assert info["backends"]["triton"] == info["backends"]["reference"] == "active"
    assert iff.functional.project_to_so3(torch.eye(3)).equal(torch.eye(3))


@pytest.mark.skipif(backend.INTERPRETED, reason="the interpreter takes CPU tensors")
def test_triton_refuses_tensors_elsewhere(triton_runs: None) -> None:
    with iff.set_backend("triton"), pytest.raises(RuntimeError, match="boundary_map: backend 'triton' runs on CUDA"):
        iff.functional.boundary_map(torch.zeros(1, 2, 2, dtype=torch.long))


def test_without_triton_a_gpu_runs_the_reference_and_one_line_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(backend.MISSING, "triton", "triton is not installed")
    with FakeTensorMode():  # tensors of a GPU that need none
        labels = torch.zeros(1, 2, 2, dtype=torch.long, device="cuda")
        iff.functional.boundary_map(labels)
        iff.functional.segmentation_loss(torch.zeros(1, 2, 2, 2, device="cuda"), labels)
    (record,) = caplog.records
    assert record.message == "plain PyTorch runs in place of triton kernels: triton is not installed"
    assert iff.backend_info()["backends"]["triton"] == "triton is not installed"


def test_every_op_is_public_and_has_a_reference() -> None:
    assert set(iff.functional.__all__) == set(reference.__all__) == OPS


@pytest.mark.usefixtures("triton_runs")
def test_ops_run_the_chosen_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"reference": lambda *_: "reference", "triton": lambda *_: "triton"}
    monkeypatch.setattr(iff.ops.boundary_map, "implementations", both)
    monkeypatch.setattr(backend, "INTERPRETED", True)
    for name in ("reference", "triton"):
        with iff.set_backend(name):
            assert iff.functional.boundary_map(torch.zeros(1, 2, 2, dtype=torch.long)) == name


@pytest.mark.usefixtures("triton_runs")
def test_a_call_lasts() -> None:
    iff.set_backend("triton")
    assert active() == "triton"
    iff.set_backend("reference")
    assert iff.backend_info()["backends"]["triton"] == "available"
    assert active() == "reference"


@pytest.mark.usefixtures("triton_runs")
def test_a_block_restores_and_nests() -> None:
    iff.set_backend("reference")
    with iff.set_backend("triton"):
        with iff.set_backend("reference"):
            with iff.set_backend("triton"):
                assert active() == "triton"
            assert active() == "reference"
        assert active() == "triton"
    assert active() == "reference"


@pytest.mark.usefixtures("triton_runs")
def test_a_block_restores_after_an_exception() -> None:
    iff.set_backend("reference")
    with pytest.raises(KeyError), iff.set_backend("triton"):
        raise KeyError
    assert active() == "reference"


@pytest.mark.usefixtures("triton_runs")
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("cudnn", ValueError, "backend must be one of auto, reference, cpu, triton, cuda, got 'cudnn'"),
        ("cuda", RuntimeError, "backend 'cuda' cannot run here: torch sees no CUDA device"),
    ],
)
def test_a_refused_backend_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    iff.set_backend("triton")
    with pytest.raises(error, match=message):
        iff.set_backend(name)
    assert active() == "triton"


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_a_backend_that_cannot_run_says_why(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(backend, "INTERPRETED", False)
    with pytest.raises(RuntimeError, match=rf"backend '{name}' cannot run here: torch sees no CUDA device"):
        iff.set_backend(name)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("reference", "chosen: reference"),
        ("cudnn", "ValueError: .*must be one of auto, reference, cpu, triton, cuda, got 'cudnn'"),
        ("cuda", "RuntimeError: .*'cuda' cannot run here"),
        ("cpu", "chosen: cpu"),
    ],
)
def test_the_environment_variable_chooses_at_import(value: str, said: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", "from inverseform_fast.ops import backend; print('chosen:', backend._backend)"],
        cwd=Path(iff.__file__).parents[1],
        env={**os.environ, "INVERSEFORM_FAST_BACKEND": value, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert re.search(said, run.stdout + run.stderr), run.stdout + run.stderr
