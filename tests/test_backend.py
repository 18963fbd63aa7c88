"""One switch chooses the backend of all ops, and a backend that cannot run says why."""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import inverseform_fast as iff
from inverseform_fast import reference
from inverseform_fast.ops import backend

OPS = set(iff.functional.__all__)
SO3 = {"geodesic_distance", "project_to_so3"}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    backend._LOGGED.clear()
    with iff.set_backend("auto"):
        yield


@pytest.fixture
def triton_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretends that Triton runs here, so that there are two backends to choose between."""
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


NO_CODE = (
    "_C_cuda.abi3.so cannot run on GPU 0, Tesla P100 (no kernel image is available); "
    "build the extension with TORCH_CUDA_ARCH_LIST=6.0"
)


@pytest.fixture
def gpu_without_code(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretends that there is a GPU for which the extension has no code."""
    gpu = {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "get_device_name": lambda _: "Tesla P100",
        "get_device_capability": lambda _: (6, 0),
    }
    for name, answer in gpu.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setitem(backend.MISSING, "cuda", None)
    binary = SimpleNamespace(inverseform_fast_cuda_error=lambda _: b"no kernel image is available")
    monkeypatch.setattr(backend, "_binary", lambda _: Path("_C_cuda.abi3.so"))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: binary)
    backend._asked_for_code.cache_clear()
    yield
    backend._asked_for_code.cache_clear()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_gpu_that_the_extension_has_no_code_for_runs_the_reference(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    """Here the GPU's tensors are those of the CPU."""
    op, matrix = iff.ops.project_to_so3, torch.eye(3) + torch.rand(3, 3)
    monkeypatch.setitem(backend.MISSING, "cuda", None)
    monkeypatch.setattr(backend, "_asked_for_code", lambda _: NO_CODE)
    monkeypatch.setattr(op, "_made_for", {"cpu": "cuda"})
    project = torch.compile(op, fullgraph=True, backend="eager") if compiled else op
    torch.compiler.reset()
    for _ in range(2):
        assert project(matrix).equal(reference.project_to_so3(matrix))
    messages = [record.message for record in caplog.records if record.name == "inverseform_fast"]
    assert messages == [f"plain PyTorch runs in place of cuda kernels: {NO_CODE}"]


@pytest.mark.usefixtures("gpu_without_code")
def test_the_extension_without_code_for_a_gpu_is_no_backend() -> None:
    info = iff.backend_info()
    assert info["backends"]["cuda"] == NO_CODE
    assert {info["ops"][name] for name in SO3} == {"reference"}
    with pytest.raises(RuntimeError, match=f"backend 'cuda' cannot run here: {re.escape(NO_CODE)}"):
        iff.set_backend("cuda")


def test_every_op_is_public_and_has_a_reference_of_the_same_signature() -> None:
    assert set(reference.__all__) == OPS == iff.backend_info()["ops"].keys()
    for name in OPS:
        assert inspect.signature(getattr(reference, name)) == inspect.signature(getattr(iff.functional, name))


COUNT = """
import gc, sys
import torch
import inverseform_fast as iff

calls = []
call = lambda: iff.functional.{call}
call()
gc.disable()
sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
call()
sys.setprofile(None)
print(len(calls) - 1, *calls)  # but for the lambda
"""


@pytest.mark.skipif(bool(backend.MISSING["cpu"]), reason="needs the extension")
@pytest.mark.parametrize(
    ("call", "most"),
    [("boundary_map(torch.zeros(1, 8, 8, dtype=torch.uint8))", 19), ("homography_exp(torch.zeros(1, 8))", 18)],
)
def test_few_calls_lie_between_a_public_function_and_its_kernel(call: str, most: int) -> None:
    """docs/design/ops.md states the overhead; it is counted in Python calls, in a process that no test has touched."""
    done = subprocess.run([sys.executable, "-c", COUNT.format(call=call)], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[0]) <= most, done.stdout


@pytest.mark.skipif(bool(backend.MISSING["cpu"]), reason="needs the extension")
def test_a_second_derivative_of_a_kernel_is_refused() -> None:
    a = torch.ones(1, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(iff.functional.homography_exp(a).sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once; choose the backend 'reference'"):
        gradient.sum().backward()


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
def test_a_choice_is_that_of_its_thread() -> None:
    """Blocks in two threads may overlap in any way: here the first one that begins ends first."""
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
    found = {}

    def first() -> None:
        with iff.set_backend("reference"):
            first_is_in.set()
            second_is_in.wait(10)
            found["first"] = active()
        first_is_out.set()

    def second() -> None:
        first_is_in.wait(10)
        with iff.set_backend("triton"):
            second_is_in.set()
            first_is_out.wait(10)
            found["second"] = active()
        found["afterwards"] = backend.chosen()

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"first": "reference", "second": "triton", "afterwards": "auto"}
    assert backend.chosen() == "auto"


def test_a_choice_is_that_of_its_task() -> None:
    async def choose(name: str, seconds: float) -> str:
        with iff.set_backend(name):
            await asyncio.sleep(seconds)
            return backend.chosen()

    async def both() -> list[str]:
        return list(await asyncio.gather(choose("reference", 0), choose("auto", 0)))

    assert asyncio.run(both()) == ["reference", "auto"]
    assert backend.chosen() == "auto"


def test_compiled_code_follows_the_choice() -> None:
    chosen = torch.compile(lambda x: x + (1 if backend.chosen() == "reference" else 2), backend="eager", fullgraph=True)
    zero = torch.zeros(1)
    for name, expected in (("auto", 2), ("reference", 1), ("auto", 2)):
        with iff.set_backend(name):
            assert chosen(zero) == expected


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
    ],
)
def test_the_environment_variable_chooses_at_import(value: str, said: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", "from inverseform_fast.ops import backend; print('chosen:', backend.chosen())"],
        cwd=Path(iff.__file__).parents[1],
        env={**os.environ, "INVERSEFORM_FAST_BACKEND": value, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert re.search(said, run.stdout + run.stderr), run.stdout + run.stderr
