"""so3_cuda.cu gives what the C++ kernels give, a barrier that it lacks is seen, and the emulator keeps CUDA's rules.

All cases of ``tests/test_so3*.py`` run on it, too (``CUDA on a CPU``).
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cuda_on_a_cpu
import pytest
import torch
from torch import Tensor

import inverseform_fast as iff

pytestmark = pytest.mark.skipif(cuda_on_a_cpu.COMPILER is None, reason="there is no C++ compiler")
BARRIERS = cuda_on_a_cpu.lines_with("__syncwarp();")


@pytest.fixture
def library(so3_on_a_cpu: Path) -> Iterator[Path]:
    with iff.set_backend("cpu"):
        yield so3_on_a_cpu
    cuda_on_a_cpu.load(so3_on_a_cpu).leave_out_barrier(0, 0)


def results(n: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Returns rotations, distances and their gradients, of the kernels that CPU tensors run."""
    generator = torch.Generator().manual_seed(n)
    theta, theta_hat = torch.eye(3) + 0.2 * torch.randn(2, n, 3, 3, generator=generator, dtype=dtype)
    pair = theta.requires_grad_(), theta_hat.requires_grad_()
    distance, rotation = iff.functional.geodesic_distance(*pair), iff.functional.project_to_so3(theta)
    gradients = torch.autograd.grad(distance.sum() + rotation[..., 0, 1].sum(), pair)
    return [rotation.detach(), distance.detach(), *gradients]


def cuda_results(
    library: Path, n: int, dtype: torch.dtype = torch.float32, seed: int = 0, line: int = 0
) -> list[Tensor]:
    """Returns those of the CUDA kernels, with an order of threads and blocks; the barrier in the line is left out."""
    with cuda_on_a_cpu.so3_kernels(library):
        cuda_on_a_cpu.load(library).leave_out_barrier(line, seed)
        return results(n, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 127, 128, 129, 1000])
def test_any_number_of_matrices(library: Path, n: int, dtype: torch.dtype) -> None:
    found, expected = cuda_results(library, n, dtype), results(n, dtype)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    if n == 1000 and dtype == torch.float32:
        assert not found[0].equal(expected[0])  # they were other kernels, with other instructions


def test_the_order_of_threads_and_blocks_changes_no_bit(library: Path) -> None:
    torch.testing.assert_close(cuda_results(library, 300, seed=1), cuda_results(library, 300, seed=2), rtol=0, atol=0)


def test_the_source_has_barriers() -> None:
    assert len(BARRIERS) == 4


@pytest.mark.parametrize("line", BARRIERS)
def test_a_barrier_that_is_left_out_is_seen(library: Path, line: int) -> None:
    right, wrong = cuda_results(library, 300), cuda_results(library, 300, line=line)
    assert not all(torch.equal(a, b) for a, b in zip(right, wrong, strict=True))


def test_the_binary_says_whether_it_has_code_for_a_gpu(library: Path) -> None:
    binary = cuda_on_a_cpu.load(library)
    binary.inverseform_fast_cuda_error.restype = ctypes.c_char_p
    assert binary.inverseform_fast_cuda_error(0) is None
    binary.set_has_code(False)
    try:
        assert binary.inverseform_fast_cuda_error(0) == b"no kernel image is available for execution on the device"
    finally:
        binary.set_has_code(True)


def test_other_sources_are_refused() -> None:
    source = cuda_on_a_cpu.SOURCE.read_text()
    assert cuda_on_a_cpu.as_cpp(source).count("\n") == source.count("\n")
    for other in (source.replace("<<<", "<<"), source + "__shared__ float more[4];\n"):
        with pytest.raises(ValueError, match=r"the CUDA source must have one line like .*, got [02]"):
            cuda_on_a_cpu.as_cpp(other)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("emulator") / "cases"
    cuda_on_a_cpu.compile_cpp(cuda_on_a_cpu.EMULATOR / "emulator_cases.cpp", program, "-O1")
    return program


def said(cases: Path, name: str) -> str:
    return subprocess.run([cases, name], capture_output=True, text=True, check=True).stdout.strip()


def numbers(cases: Path, name: str) -> list[float]:
    return [float(number) for number in said(cases, name).split()]


def test_threads_of_a_warp_meet_at_a_barrier(cases: Path) -> None:
    expected = [100 * block + (thread ^ 1) for block in range(2) for thread in range(64)]
    assert numbers(cases, "neighbors") == expected
    assert numbers(cases, "neighbors without a barrier") != expected


def test_a_warp_votes(cases: Path) -> None:
    assert numbers(cases, "votes")[:64] == [0] * 32 + [1] * 32


def test_shared_memory_is_nan_when_a_block_starts(cases: Path) -> None:
    assert numbers(cases, "shared memory at the start") == [1] * 128


def test_threads_and_blocks_run_in_any_order_and_each_once(cases: Path) -> None:
    arrivals = numbers(cases, "order")[128:]
    assert sorted(arrivals) == list(range(128))
    assert arrivals[:64] != sorted(arrivals[:64])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("one returns", "the threads of a warp must meet at one barrier, got lines"),
        ("two barriers", "the threads of a warp must meet at one barrier, got lines"),
        ("part of a warp votes", "a vote must be of the whole warp, got mask 65535"),
        ("too much shared memory", "shared memory must have at most 48 KB, got 80000"),
        ("unknown PTX", 'no CPU runs the PTX "sin.approx.ftz.f32 %0, %1;"'),
    ],
)
def test_what_hardware_leaves_undefined_is_an_error(cases: Path, name: str, message: str) -> None:
    assert message in said(cases, name)


def test_approximate_instructions_err_as_much_as_they_may(cases: Path) -> None:
    """Where they need not round, they are exact; denormal numbers and huge divisors give what PTX says."""
    *units, nine, denormal, zero, six, huge, infinite = said(cases, "approximate arithmetic").split()
    assert units == ["1", "1", "2"]
    assert [nine, denormal, zero, six, huge, infinite] == ["3", "0", "inf", "2", "0", "1"]
