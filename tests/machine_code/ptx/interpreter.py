"""Runs compiled Triton kernels on the CPU: a function for ``benchmarks.compiled.driver.fake_gpu`` to launch."""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import re
import struct
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from benchmarks.common import paths

from .assembler import Assembled, Code, assemble
from .text import parse

if TYPE_CHECKING:
    from triton.compiler import CompiledKernel
    from triton.runtime.jit import JITFunction

SOURCES = Path(__file__).parent
SCRATCH = ("global scratch", "profile scratch")  # Triton passes these null pointers last
FLAGS = ("-std=c++20", "-O2", "-march=native", "-ffp-contract=off", "-fPIC", "-shared")


class MachineFault(RuntimeError):
    """The kernel did what it must not do on a GPU: it read out of bounds, it raced, ..."""


class Argument(ctypes.Structure):
    """``struct Argument`` of machine.cpp."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_uint64), ("granule", ctypes.c_uint64))


@cache
def library() -> ctypes.CDLL:
    """Build the machine, or find it built."""
    sources = sorted(path for path in SOURCES.iterdir() if path.suffix in (".cpp", ".h"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources) + " ".join(FLAGS).encode()).hexdigest()
    built = paths.ROOT / "build" / f"ptx_machine_{digest[:16]}.so"
    if not built.exists():
        built.parent.mkdir(exist_ok=True)
        unfinished = built.with_suffix(f".{os.getpid()}")  # another process may build it, too
        sources = [path for path in sources if path.suffix == ".cpp"]
        subprocess.run([os.environ.get("CXX", "c++"), *FLAGS, *map(str, sources), "-o", str(unfinished)], check=True)
        unfinished.replace(built)
    loaded = ctypes.CDLL(str(built))
    loaded.find_instruction.restype = ctypes.c_void_p
    loaded.run.restype = ctypes.c_int64
    return loaded


def find(key: str) -> int | None:
    """Return the machine's instruction of this name and shape, if it knows one."""
    return library().find_instruction(key.encode())


@dataclass(frozen=True)
class Launch:
    """What a kernel is launched with."""

    programs: int
    parameters: tuple[tuple[str, object], ...]  # in order: what messages call them, and tensors or plain numbers
    shared: int  # bytes of shared memory of a program

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.parameters if isinstance(value, Tensor)}


def run(assembled: Assembled, launch: Launch, seed: int) -> None:
    """Run all programs of a launch, in the random order that the seed gives.

    Raises:
        MachineFault: the kernel did what it must not do.
    """
    kernel, values = assembled.kernel, (value for _, value in launch.parameters)
    bits = [_bits(value, type_) for value, type_ in zip(values, kernel.parameters.values(), strict=True)]
    constants = assembled.constants | dict(zip(assembled.parameters, bits, strict=True))
    where, what = np.array(list(constants), np.int32), np.array(list(constants.values()), np.uint64)
    tensors = _segments(launch.tensors)
    segments = (Argument * len(tensors))(*(segment for _, segment in tensors))
    arrays = (x.ctypes.data for x in (assembled.ops, assembled.operands, where, what))
    counts = (len(assembled.ops), assembled.registers, len(where), kernel.threads // 32, launch.shared)
    code = Code(*arrays, *counts, *assembled.special)
    why = ctypes.create_string_buffer(1000)
    failed = library().run(ctypes.byref(code), segments, len(tensors), launch.programs, seed, why, ctypes.sizeof(why))
    if failed >= 0:
        text = re.sub(r"segment (\d+)", lambda match: tensors[int(match[1])][0], why.value.decode())
        raise MachineFault(f"{kernel.name}: '{kernel.statements[failed]}' (statement {failed}, seed {seed}): {text}")


def _bits(value: object, type_: str) -> int:
    if isinstance(value, Tensor):
        return value.data_ptr()
    if type_ == "f32":
        return int.from_bytes(struct.pack("<f", value), "little")
    assert isinstance(value, int)
    return value % 2**64


def _segments(tensors: dict[str, Tensor]) -> list[tuple[str, Argument]]:
    """The memory of the tensors in order of address; tensors that overlap share a segment."""
    spans: list[tuple[int, int, int, str]] = []
    for name, x in sorted(tensors.items(), key=lambda item: item[1].data_ptr()):
        if not x.numel():
            continue
        begin, granule = x.data_ptr(), x.element_size()
        end = begin + granule * (1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True)))
        if spans and begin < spans[-1][1]:
            first, last, other, names = spans.pop()
            begin, end, granule, name = first, max(end, last), min(granule, other), f"{names} and {name}"
        spans.append((begin, end, granule, name))
    return [(name, Argument(begin, end - begin, granule)) for begin, end, granule, name in spans]


def compiled_for(function: JITFunction, arguments: tuple[object, ...], warps: int) -> tuple[object, ...]:
    """Return the compile-time constants of a launch and its number of warps."""
    constants = (x for parameter, x in zip(function.params, arguments, strict=True) if parameter.is_constexpr)
    return (*constants, warps)


class Interpreter:
    """Runs every launch, each in another random order, and notes how it was compiled."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.assembled: dict[str, Assembled] = {}  # by PTX
        self.launched: dict[str, set[tuple[object, ...]]] = defaultdict(set)  # see compiled_for

    def __call__(self, kernel: CompiledKernel, grid: tuple[int, int, int], arguments: tuple[object, ...]) -> None:
        if grid[1:] != (1, 1):
            raise ValueError(f"{kernel.name}: the grid must have one dimension, got {grid}")
        ptx, kinds = kernel.asm["ptx"], kernel.src.signature
        if ptx not in self.assembled:
            self.assembled[ptx] = assemble(parse(ptx), find)
        passed = ((name, x) for name, x in zip(kinds, arguments, strict=True) if kinds[name] != "constexpr")
        launch = Launch(grid[0], (*passed, *((name, 0) for name in SCRATCH)), kernel.metadata.shared)
        warps = kernel.metadata.num_warps
        self.launched[kernel.name.lstrip("_")].add(compiled_for(kernel.src.fn, arguments, warps))
        self.run(self.assembled[ptx], launch)

    def run(self, assembled: Assembled, launch: Launch) -> None:
        run(assembled, launch, self.random.getrandbits(32))
