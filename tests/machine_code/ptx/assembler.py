"""Turns statements of PTX into the arrays that the C++ machine runs."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .text import Kernel, Statement

SHARED_BASE = 1024  # as in machine.h
OP = np.dtype(
    [
        ("immediate", "i8"),
        ("instruction", "u8"),
        ("operands", "i4"),
        ("guard", "i4"),
        ("negated", "i8"),
        ("executed", "i8"),
        ("kept_out", "i8"),
    ]
)
SPECIAL = ("%tid.x", "%ctaid.x", "%laneid")
REGISTER = re.compile(r"%[a-z]+\d+")
ADDRESS = re.compile(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+)\s*)?\]")
FLOAT = re.compile(r"0[fd]([0-9A-Fa-f]{8}|[0-9A-Fa-f]{16})")
INTEGER = re.compile(r"-?(?:0x[0-9A-Fa-f]+|\d+)U?")


class Code(ctypes.Structure):
    """``struct Code`` of machine.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("ops", "operands", "constant_registers", "constants")),
        *((name, ctypes.c_int32) for name in ("op_count", "register_count", "constant_count", "warps", "shared_bytes")),
        *((name, ctypes.c_int32) for name in ("thread_register", "program_register", "lane_register")),
    )


@dataclass(frozen=True)
class Assembled:
    """A kernel for the machine. Its registers hold what PTX names as well as constants and parameters."""

    kernel: Kernel
    ops: npt.NDArray[np.void]
    operands: npt.NDArray[np.int32]
    constants: dict[int, int]  # by register
    parameters: tuple[int, ...]  # registers
    special: tuple[int, ...]  # registers of SPECIAL
    registers: int


class _Registers:
    """Numbers the registers in order of appearance."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.numbers: dict[str, int] = {}
        self.constants: dict[int, int] = {}
        for name in (*SPECIAL, *kernel.parameters):
            self.number(name)

    def number(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))

    def __getitem__(self, text: str) -> int:
        if text in self.numbers or text == "_" or text in self.kernel.registers or REGISTER.fullmatch(text):
            return self.number(text)
        number = self.number(text)
        self.constants[number] = _constant(text) % 2**64
        return number


def _constant(text: str) -> int:
    if text == "global_smem":
        return SHARED_BASE
    if match := FLOAT.fullmatch(text):
        return int(match[1], 16)
    if INTEGER.fullmatch(text):
        return int(text.rstrip("U"), 0)
    raise ValueError(f"an operand must be a register, a parameter, global_smem or a number, got {text!r}")


def assemble(kernel: Kernel, find: Callable[[str], int | None]) -> Assembled:
    """Assemble the kernel; ``find`` returns the machine's address of an instruction, by its name and operands' shape.

    Raises:
        ValueError: the machine does not know an instruction, or an operand makes no sense. The message names it.
    """
    labels: dict[str, int] = {}
    for i, statement in enumerate(kernel.statements):
        for label in statement.labels:
            if label in labels:
                raise ValueError(f"{kernel.name}: the label {label} must stand in one place, got two")
            labels[label] = i
    registers = _Registers(kernel)
    ops = np.zeros(len(kernel.statements), OP)
    operands: list[int] = []
    for op, statement in zip(ops, kernel.statements, strict=True):
        op["operands"] = len(operands)
        try:
            shape, immediate = _operands(statement, labels, registers, operands)
            key = " ".join((statement.name, *shape))
            instruction = find(key)
            if instruction is None:
                raise ValueError(f"the machine does not know the instruction '{key}'")
            op["guard"] = registers[statement.guard.lstrip("!")] if statement.guard else -1
        except ValueError as error:
            raise ValueError(f"{kernel.name}: {statement}: {error}") from None
        op["instruction"], op["immediate"], op["negated"] = instruction, immediate, statement.guard.startswith("!")
    return Assembled(
        kernel,
        ops,
        np.array(operands, np.int32),
        registers.constants,
        tuple(registers[name] for name in kernel.parameters),
        tuple(registers[name] for name in SPECIAL),
        len(registers.numbers),
    )


def _operands(
    statement: Statement, labels: dict[str, int], registers: _Registers, numbers: list[int]
) -> tuple[list[str], int]:
    """Append the numbers of the operands' registers; return the operands' shapes and the immediate."""
    shapes, immediate = [], 0
    for text in statement.operands:
        if text in labels:
            shapes.append("label")
            immediate = labels[text]
        elif text.startswith("["):
            match = ADDRESS.fullmatch(text)
            if match is None:
                raise ValueError(f"an address must be '[register + number]', got {text!r}")
            if immediate:
                raise ValueError(f"only the last address may have an offset, got {immediate} before {text!r}")
            shapes.append("m")
            immediate = int(match[2] or 0)
            numbers.append(registers[match[1]])
        else:
            parts = list(_parts(text))
            shapes.append(str(len(parts)))
            numbers += [registers[part] for part in parts]
    return shapes, immediate


def _parts(text: str) -> Iterator[str]:
    """Yield the registers of a vector, or of a pair as ``%r1|%p1``."""
    return (part.strip() for part in re.split(r"[,|]", text.strip("{}")))
