"""Every kernel's machine code, run on the CPU, is as accurate as the reference, in whatever order it runs."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers import deterministic, results_and_gradients
from machine_code.ptx.cases import CAPABILITIES, CASES, VARIANTS, Case
from machine_code.ptx.interpreter import Interpreter, compiled_for
from three_way import assert_three_way
from torch import Tensor

from benchmarks.compiled import cubins
from benchmarks.compiled.driver import fake_gpu
from inverseform_fast import functional, kernels, reference

SEED = int(os.environ.get("KERNEL_SEED", "0"))
EVERY = [(name, capability) for name in CASES for capability in CAPABILITIES] + [(name, 90) for name in VARIANTS]


@cache
def production() -> dict[str, set[tuple[object, ...]]]:
    """How production launches each kernel."""
    found: dict[str, set[tuple[object, ...]]] = {}
    for launch in cubins.production_launches():
        warps = launch.options.get("num_warps", 4)
        assert isinstance(warps, int)
        given = dict(zip((p.name for p in launch.kernel.params), launch.arguments, strict=False)) | launch.options
        arguments = tuple(given[parameter.name] for parameter in launch.kernel.params)
        found.setdefault(launch.name, set()).add(compiled_for(launch.kernel, arguments, warps))
    return found


@pytest.mark.parametrize(("name", "capability"), EVERY)
def test_the_machine_code_is_as_accurate_as_the_reference(name: str, capability: int) -> None:
    case = (CASES | VARIANTS)[name]
    torch.manual_seed(SEED)
    inputs, interpreter = case.inputs(), Interpreter(SEED)
    with (
        fake_gpu(capability, interpreter),
        torch.backends.cudnn.flags(enabled=True, allow_tf32=case.tensor_floats),
    ):
        if case.tensor_floats:
            assert_rounds_to_tensor_floats(case, inputs)
        else:
            assert_three_way(case.op, *inputs, factor=case.factor, **case.options)
    assert set(interpreter.launched) == set(case.kernels)
    for kernel, launched in interpreter.launched.items():
        assert launched <= production()[kernel]


def assert_rounds_to_tensor_floats(case: Case, inputs: tuple[Tensor, ...]) -> None:
    """Values and gradients lie as near to float32's as ten bits of mantissa allow, and not nearer."""
    expected = results_and_gradients(getattr(reference, case.op), *inputs, **case.options)
    with deterministic():
        found, again = (results_and_gradients(getattr(functional, case.op), *inputs, **case.options) for _ in range(2))
    for ours, same, theirs in zip(found, again, expected, strict=True):
        assert torch.equal(ours, same)
        assert 1e-4 < (ours - theirs).norm() / theirs.norm() < 0.02


def test_every_kernel_has_a_case() -> None:
    sources = [path.read_text() for path in Path(kernels.__path__[0]).glob("*.py")]
    launched = {name for source in sources for name in re.findall(r"_(\w+)\[\(", source)}
    assert launched == {kernel for case in CASES.values() for kernel in case.kernels}
