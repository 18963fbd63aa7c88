"""Compiles the extension's CUDA source for a CPU (``machine_code/cuda``), and lets CPU tensors run its kernels."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

import inverseform_fast as iff

CSRC = Path(iff.__file__).parents[1] / "csrc"
SOURCE = CSRC / "so3/so3_cuda.cu"
EMULATOR = Path(__file__).parent / "machine_code/cuda"
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
FLAGS = ["-std=c++17", "-march=native", "-ffp-contract=fast", "-Wall", "-Wno-unknown-pragmas"]  # nvcc contracts, too
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # as in setup.py
OPS = ("project_to_so3", "project_to_so3_backward", "geodesic_distance")
AS_CPP = {  # the lines of CUDA that no header can make C++ of
    r"kernel<<<(.+), (\w+), 0, .+>>>\((.+)\);": r"cuda_on_a_cpu::launch([=] { kernel(\3); }, \1, \2);",
    r"__shared__ (\w+) (\w+)\[(.+)\];": r"\1* \2 = cuda_on_a_cpu::shared_memory<\1>(\3);",
}


def as_cpp(source: str) -> str:
    """Returns the CUDA source, of the same number of lines, as C++ for ``machine_code/cuda/cuda_runtime.h``.

    Raises:
        ValueError: it does not have exactly one launch and one array in shared memory.
    """
    for pattern, cpp in AS_CPP.items():
        source, count = re.subn(pattern, cpp, source)
        if count != 1:
            raise ValueError(f"the CUDA source must have one line like {pattern}, got {count}")
    return source


def compile_cpp(source: Path, binary: Path, *flags: str | Path) -> None:
    """Raises RuntimeError with the compiler's messages if it fails."""
    command = [str(COMPILER), *FLAGS, f"-I{EMULATOR}", source, "-o", binary, *flags]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{source.name} must compile, but {COMPILER} says: {run.stderr}")


def build(folder: Path) -> Path:
    """Compiles so3's library in the folder, unless another process has done so, and returns its path."""
    from torch.utils.cpp_extension import include_paths, library_paths  # late: it looks for CUDA

    library = folder / "so3_on_a_cpu.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            launched = folder / "launched" / SOURCE.name
            launched.parent.mkdir(exist_ok=True)
            launched.write_text(as_cpp(SOURCE.read_text()))
            paths = [f"-isystem{path}" for path in include_paths("cpu")] + [f"-L{path}" for path in library_paths()]
            options = ["-O2", "-shared", "-fPIC", "-fvisibility=hidden", STABLE_ABI, f"-I{folder}", f"-I{CSRC}", *paths]
            unfinished = folder / "unfinished.so"
            compile_cpp(EMULATOR / "so3_on_a_cpu.cpp", unfinished, *options, "-ltorch_cpu")
            unfinished.rename(library)
    return library


@functools.cache
def load(library: Path) -> ctypes.CDLL:
    """Defines the library's ops in the namespace ``so3_on_a_cpu``, with the schemas of the extension's ops."""
    for op in OPS:
        schema = str(getattr(torch.ops.inverseform_fast, op).default._schema).removeprefix("inverseform_fast::")
        _definitions().define(schema)
    torch.ops.load_library(library)
    return ctypes.CDLL(str(library))


@functools.cache
def _definitions() -> torch.library.Library:
    return torch.library.Library("so3_on_a_cpu", "DEF")


@contextmanager
def so3_kernels(library: Path) -> Iterator[None]:
    """Within the block, CPU tensors run the CUDA kernels of project_to_so3 and geodesic_distance."""
    load(library)
    with torch.library._scoped_library("inverseform_fast", "IMPL") as implementations, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Warning only once for all operators")  # that a kernel is overridden
        for op in OPS:
            kernel = getattr(torch.ops.so3_on_a_cpu, op).default
            implementations.impl(op, kernel, "CPU", allow_override=True)
        yield


def lines_with(text: str) -> Sequence[int]:
    """Returns the numbers of the CUDA source's lines that hold the text."""
    return [number for number, line in enumerate(SOURCE.read_text().splitlines(), 1) if text in line]
