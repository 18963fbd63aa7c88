"""The machine code of a kernel (SASS) is read as blocks: the instructions that lie in the same loops, counted by pipe.

The figures are of Hopper (compute capability 9.0), from the CUDA programming guide's table of arithmetic throughput and
from its tensor cores' peak. A multiprocessor has four schedulers. Each issues one instruction of a warp a cycle, to a
pipe that is then busy for the cycles that stand here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NamedTuple

# An instruction takes one slot of its scheduler ("issue"), and cycles of at most one kind of pipe. "fma" is the float
# pipe, of which integer products fit only into one half ("imad"). Four schedulers share the 32 lanes of "lsu".
PIPES = ("issue", "fma", "imad", "alu", "xu", "fp64", "lsu", "tensor")
FMA = {"FFMA", "FADD", "FMUL", "HFMA2", "HADD2", "HMUL2"}
XU = {"MUFU", "I2F", "F2I", "F2F", "FRND", "POPC", "FLO", "BREV"}
FP64 = {"DFMA", "DADD", "DMUL", "DSETP"}
LSU = {"LDG", "STG", "LDS", "STS", "LDSM", "STSM", "LDL", "STL", "ATOM", "ATOMG", "ATOMS", "RED", "REDG", "SHFL"}
ISSUE_ONLY = {
    *("BAR", "BRA", "BSSY", "BSYNC", "BREAK", "CALL", "RET", "EXIT", "NOP", "WARPSYNC", "WARPGROUP", "DEPBAR"),
    *("MEMBAR", "FENCE", "ERRBAR", "CS2R", "S2R", "LDC", "R2UR", "YIELD"),
}
WIDE = {"64": 2, "128": 4, "2": 2, "4": 4}  # 32-bit words of a thread's access, or matrices of an LDSM or STSM
PRODUCTS_A_CYCLE = {"TF32": 256, "F16": 512, "BF16": 512}  # of a scheduler's tensor core


class Instruction(NamedTuple):
    address: int
    name: str  # such as LDG.E.128
    operands: str


class Block(NamedTuple):
    """Instructions within the same loops, and the cycles that a warp keeps each pipe busy with them, once through."""

    loops: list[int]  # indices of the loops, in the order of their first addresses
    cycles: dict[str, float]


def blocks(sass: str) -> tuple[int, list[Block]]:
    """Read what cuobjdump printed of one kernel: the number of its loops, and its blocks.

    What stands behind the last EXIT or loop is left out: the slow paths of divisions, for extreme numbers, and padding.
    """
    code = _instructions(sass)
    loops = _loops(code)
    last = max([instruction.address for instruction in code if instruction.name == "EXIT"] + [end for _, end in loops])
    cycles: dict[tuple[int, ...], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for instruction in code:
        if instruction.address > last:
            break
        inside = tuple(i for i, (first, end) in enumerate(loops) if first <= instruction.address <= end)
        cycles[inside]["issue"] += 1
        for pipe, busy in _busy(instruction.name).items():
            cycles[inside][pipe] += busy
    return len(loops), [Block(list(inside), dict(counts)) for inside, counts in cycles.items()]


def _instructions(sass: str) -> list[Instruction]:
    line = r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);"
    return [Instruction(int(place, 16), name, rest) for place, name, rest in re.findall(line, sass, re.MULTILINE)]


def _loops(code: list[Instruction]) -> list[tuple[int, int]]:
    """First and last addresses of the loops: a branch back ends a loop, which begins where it leads."""
    ends: dict[int, int] = {}
    for place, name, operands in code:
        target = re.search(r"0x([0-9a-f]+)", operands) if name.startswith("BRA") else None
        if target and int(target[1], 16) < place:
            ends[int(target[1], 16)] = place
    return sorted(ends.items())


def _busy(name: str) -> dict[str, float]:
    """The pipes that an instruction of a warp uses, and for how many cycles."""
    operation, *parts = name.split(".")
    if operation in ISSUE_ONLY or operation.startswith("U"):  # U*: once for the warp, by a unit of its own
        return {}
    if operation in FMA:
        return {"fma": 1}
    if operation == "IMAD":
        return {"fma": 1, "imad": 2}
    if operation in XU:
        return {"xu": 8}
    if operation in FP64:
        return {"fp64": 2}
    if operation in LSU:
        return {"lsu": 4 * max(WIDE.get(part, 1) for part in parts or [""])}
    if operation.endswith("MMA"):
        return {"tensor": _products(parts) / _rate(parts)}
    return {"alu": 2}


def _products(parts: list[str]) -> float:
    """Products of a warp in ``HMMA.1688.*`` (16 x 8 x 8), or its quarter of those of ``HGMMA.64x16x8.*``."""
    if "x" in parts[0]:
        m, n, k = map(int, parts[0].split("x"))
        return m * n * k / 4
    return {"1688": 16 * 8 * 8, "16816": 16 * 8 * 16}[parts[0]]


def _rate(parts: list[str]) -> int:
    return PRODUCTS_A_CYCLE[next((part for part in parts if part in PRODUCTS_A_CYCLE), "F16")]
