"""The kernels' tests run Triton's on a GPU, or in the interpreter (``TRITON_INTERPRET=1``); otherwise they run C++.

The interpreter computes by a GPU's rules (``gpu_rules.py``). ``MACHINE_CODE=90`` runs Triton's, compiled for that
compute capability, on the CPU (``tests/machine_code/ptx``). ``KERNEL_SEED=7`` draws other random inputs than usual, and
another order of the interpreter's programs. ``@pytest.mark.kernel(each=False)`` runs one of the C++ kernels, for what
cannot depend on the instruction set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import settings

import inverseform_fast as iff
from inverseform_fast.ops.backend import INTERPRETED, MISSING

SEED = int(os.environ.get("KERNEL_SEED", "0"))
MACHINE_CODE = int(os.environ.get("MACHINE_CODE", "0"))
RUNS_TRITON = INTERPRETED or MACHINE_CODE or torch.cuda.is_available()
CPU = {"best SIMD": "", "AVX2": "avx2", "scalar": "default"}  # what ATEN_CPU_CAPABILITY says
KERNELS = ["triton"] if RUNS_TRITON else [] if MISSING["cpu"] else list(CPU)


def quicken_the_interpreter() -> None:
    """Leave out what Triton's interpreter computes in vain, so that the suite takes a third of the time.

    It prepares ``triton.language`` again for every call of a device function, where once a function is enough; and it
    repeats whole-number arithmetic in 64 bits for an assertion on overflow that ``debug=False`` then skips.
    """
    from triton.runtime import interpreter

    @cache
    def prepared(function: interpreter.InterpretedFunction) -> Callable[..., object]:
        interpreter._patch_lang(function.fn)
        return function.rewrite()

    def call(self: interpreter.InterpretedFunction, *args: object, **options: object) -> object:
        return prepared(self)(*args, **options)

    interpreter.InterpretedFunction.__call__ = call
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)


if INTERPRETED:
    import gpu_rules

    quicken_the_interpreter()
    gpu_rules.apply(SEED)
settings.register_profile("kernels", derandomize=not SEED, deadline=None)
settings.load_profile("kernels")
# The compiler needs Triton, and a process without the interpreter.
collect_ignore = ["test_cubins.py", "test_predicted_times.py"] if INTERPRETED or MISSING["triton"] else []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    elsewhere = [item for item in items if item.get_closest_marker("triton") and not RUNS_TRITON]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in elsewhere]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(SEED)


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Without this, convolutions on a GPU, the reference's too, would round to ten bits."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    mark = metafunc.definition.get_closest_marker("kernel")
    if mark and not metafunc.definition.get_closest_marker("triton"):
        metafunc.parametrize("kernels", KERNELS[: None if mark.kwargs.get("each", True) else 1], indirect=True)


@pytest.fixture(autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    name = getattr(request, "param", "triton" if request.node.get_closest_marker("triton") else None)
    if name is None:
        yield
        return
    if name in CPU:
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", CPU[name])
    if MACHINE_CODE and name == "triton":
        from machine_code.ptx.interpreter import Interpreter

        from benchmarks.compiled.driver import fake_gpu

        with fake_gpu(MACHINE_CODE, Interpreter(SEED)):
            yield
    else:
        with iff.set_backend("cpu" if name in CPU else "triton"):
            yield
