"""Small PTX programs, written by hand, on the machine."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from .assembler import assemble
from .interpreter import Launch, find, run
from .text import parse

FORMATS = {"b": 1, "B": 1, "h": 2, "H": 2, "e": 2, "i": 4, "I": 4, "f": 4, "q": 8, "Q": 8, "d": 8}


def ptx(body: str, parameters: int, threads: int = 32) -> str:
    """Write a kernel ``by_hand`` with 64-bit parameters ``p0``, ``p1``, .. that runs the body."""
    listed = ",\n".join(f"\t.param .u64 .ptr .global .align 1 p{i}" for i in range(parameters))
    return (
        f".version 8.7\n.target sm_90a\n.address_size 64\n.extern .shared .align 16 .b8 global_smem[];\n"
        f".visible .entry by_hand(\n{listed}\n)\n.reqntid {threads}\n{{\n{body}\n\tret;\n}}\n"
    )


def run_by_hand(
    body: str, *arguments: Tensor | int, threads: int = 32, programs: int = 1, shared: int = 1024, seed: int = 0
) -> None:
    """Run the body with the arguments as ``p0``, ``p1``, .."""
    assembled = assemble(parse(ptx(body, len(arguments), threads)), find)
    run(assembled, Launch(programs, tuple((f"p{i}", x) for i, x in enumerate(arguments)), shared), seed)


def lane_values(body: str, *inputs: Tensor, threads: int = 32, seed: int = 0) -> Tensor:
    """Run a body that makes ``%r100`` of every thread from ``%r0`` (its number), ``%r1``, .. (its inputs)."""
    result = torch.full((threads,), -1, dtype=torch.int32)
    loads = "".join(
        f"ld.param.b64 %rd{i}, [p{i}];\nmad.wide.u32 %rd{i}, %r0, 4, %rd{i};\nld.global.b32 %r{i}, [%rd{i}];\n"
        for i in range(1, len(inputs) + 1)
    )
    start = f"mov.u32 %r0, %tid.x;\nld.param.b64 %rd0, [p0];\nmad.wide.u32 %rd0, %r0, 4, %rd0;\n{loads}"
    run_by_hand(f"{start}{body}\nst.global.b32 [%rd0], %r100;", result, *inputs, threads=threads, seed=seed)
    return result


def evaluate(instruction: str, types: str, *values: float) -> float:
    """Run one instruction in all lanes; ``types`` are those of its sources and its result, as ``"ff>f"`` of struct."""
    sources, result = types.split(">")
    given = torch.tensor([_bits(kind, value) for kind, value in zip(sources, values, strict=True)], dtype=torch.int64)
    made = torch.full((32,), -1, dtype=torch.int64)
    names = [f"%rd{i}" for i in range(len(values))]
    loads = "".join(f"ld.global.b64 {name}, [%rd10 + {8 * i}];\n" for i, name in enumerate(names))
    body = (
        f"ld.param.b64 %rd10, [p0];\nld.param.b64 %rd11, [p1];\n{loads}"
        f"{instruction} {', '.join(['%rd20', *names])};\n"
        "mov.u32 %r0, %tid.x;\nmad.wide.u32 %rd11, %r0, 8, %rd11;\nst.global.b64 [%rd11], %rd20;"
    )
    run_by_hand(body, given, made)
    assert (made == made[0]).all()
    size = FORMATS[result]
    return struct.unpack(f"<{result}", struct.pack("<q", int(made[0]))[:size])[0]


def _bits(kind: str, value: float) -> int:
    packed = struct.pack(f"<{kind}", value)
    # What lies above the value in a register is nothing that an instruction may look at.
    return struct.unpack("<q", packed + b"\xa5" * (8 - len(packed)))[0]
