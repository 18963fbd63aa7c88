"""What a kernel must not do, and what the machine does not know, is an error that says what and where."""

from __future__ import annotations

import pytest
import torch
from machine_code.ptx.handwritten import ptx, run_by_hand
from machine_code.ptx.interpreter import MachineFault
from machine_code.ptx.text import parse

ADDRESS = "mov.u32 %r0, %tid.x;\nld.param.b64 %rd1, [p0];\nmad.wide.u32 %rd1, %r0, 4, %rd1;\n"
SHARED = "mov.u32 %r0, %tid.x;\nshl.b32 %r1, %r0, 2;\nmov.b32 %r2, global_smem;\nadd.s32 %r1, %r2, %r1;\n"
ASYNC = """
    mov.pred %p1, -1;
    {fence}
    wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32
        {{%r20, %r21, %r22, %r23}}, {{%r24, %r25, %r26, %r27}}, {descriptor}, %p1, 1, {sign};
    {end}
"""
FENCE = "wgmma.fence.sync.aligned;"
TILE = 3 << 62 | 16 << 32 | 64
FAULTS = {  # the body, threads, programs, and what the message says
    "past the end": (
        ADDRESS + "ld.global.b32 %r1, [%rd1 + 4];", 32, 1,
        "thread 31 of program 0 makes a read of 4 bytes out of bounds, at global address 0x.*, 0 bytes past .* of p0"),
    "before the start": (ADDRESS + "st.global.b32 [%rd1 + -8], %r0;", 32, 1, "8 bytes before the start of p0"),
    "no tensor": ("mov.u64 %rd1, 4096;\nld.global.b8 %r1, [%rd1];", 32, 1, "0x1000, which belongs to nothing"),
    "a garbage register": ("ld.global.b8 %r1, [%rd7];", 32, 1, "out of bounds"),
    "misaligned": (ADDRESS + "ld.global.v2.b32 {%r1, %r2}, [%rd1];", 32, 1, "thread 1 .* misaligned read of 8 bytes"),
    "beyond shared memory": (SHARED + "st.shared.b32 [%r1 + 1024], %r0;", 32, 1, "write .* out of bounds, at shared"),
    "two programs write": (ADDRESS + "mov.u32 %r1, %ctaid.x;\nst.global.b32 [%rd1], %r1;", 32, 2, "a race: .*program"),
    "write after read": (
        SHARED + "ld.shared.b32 %r3, [%r2];\nst.shared.b32 [%r1], %r0;", 64, 1, "a race: .* writes .* thread .* read"),
    "read after write": (SHARED + "st.shared.b32 [%r1], %r0;\nld.shared.b32 %r3, [%r2 + 252];", 64, 1, "a race"),
    "lanes of a warp": (
        SHARED + "st.shared.b32 [%r1], %r0;\nxor.b32 %r1, %r1, 4;\nld.shared.b32 %r3, [%r1];", 32, 1, "a race: thread"),
    "an atomic and a read": (
        ADDRESS + "ld.param.b64 %rd2, [p0];\natom.global.gpu.relaxed.add.u64 %rd3, [%rd2], 1;\n"
        "ld.global.b32 %r1, [%rd2];", 64, 1, "a race"),
    "a barrier that one warp misses": (
        "mov.u32 %r0, %tid.x;\nsetp.lt.u32 %p1, %r0, 32;\n@%p1 bra out;\nbar.sync 0;\nout:\n", 64, 1,
        "warps wait at a barrier that others never reach"),
    "lanes that part": (
        "mov.u32 %r0, %tid.x;\nsetp.lt.u32 %p1, %r0, 5;\n@%p1 bra other;\nbar.warp.sync -1;\nret;\nother:\n"
        "shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;", 32, 1,
        "lanes of a warp wait for each other at different instructions"),
    "lanes that left": (
        "mov.u32 %r0, %tid.x;\nsetp.lt.u32 %p1, %r0, 5;\n@%p1 ret;\nbar.warp.sync -1;", 32, 1,
        "lanes of the warp have left"),
    "a guard on a shuffle": (
        "mov.u32 %r0, %tid.x;\nsetp.lt.u32 %p1, %r0, 5;\n@%p1 shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;", 32, 1,
        "the guard keeps some lanes out"),
    "some members": ("shfl.sync.bfly.b32 %r1, %r0, 1, 31, 255;", 32, 1, "the mask of members must be -1"),
    "a loop without an end": ("again:\nbra.uni again;", 32, 1, "the program takes too long"),
    "no fence of registers": (
        ASYNC.format(fence="", descriptor=TILE, sign=1, end=""), 128, 1, "wgmma.fence must come before"),
    "no wait": (
        ASYNC.format(fence=FENCE, descriptor=TILE, sign=1, end="wgmma.commit_group.sync.aligned;"),
        128, 1, "ended without waiting for its asynchronous work"),
    "no swizzle": (
        ASYNC.format(fence=FENCE, descriptor=64, sign=1, end=""), 128, 1, "must have a swizzle"),
    "a negated factor": (
        ASYNC.format(fence=FENCE, descriptor=TILE, sign=-1, end=""), 128, 1, "signs .* must be 1"),
    "no proxy fence": (
        SHARED + "st.shared.b32 [%r1], %r0;\nbar.sync 0;\n"
        + ASYNC.format(fence=FENCE, descriptor=TILE, sign=1, end=""), 128, 1,
        "no fence.proxy.async"),
    "tensor memory that nobody took": (
        "mov.b32 %r1, 0;\ntcgen05.st.sync.aligned.32x32b.x1.b32 [%r1], {%r1};\ntcgen05.wait::st.sync.aligned;", 32, 1,
        "column 0 of tensor memory is not allocated"),
    "tensor memory that nobody gave back": (
        "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [global_smem], 32;", 32, 1, "without releasing"),
    "no mbarrier": (
        "mov.b32 %r1, global_smem;\nmbarrier.try_wait.parity.shared.b64 %p1, [%r1], 0;", 32, 1, "there is no mbarrier"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_names_the_instruction_and_the_cause(case: str) -> None:
    body, threads, programs, message = FAULTS[case]
    with pytest.raises(MachineFault, match=rf"(?s)by_hand: '.*' \(statement \d+, seed 0\): .*{message}"):
        run_by_hand(body, torch.zeros(threads), threads=threads, programs=programs)


UNKNOWN = {
    "fma.rz.f32 %r1, %r2, %r3, %r4": r"does not know the instruction 'fma.rz.f32 1 1 1 1'",
    "setp.lt.and.f32 %p1, %r2, %r3, %p2": r"does not know the instruction 'setp.lt.and.f32 1 1 1 1'",
    "ld.global.nc.b32 %r1, [%rd1]": r"does not know the instruction 'ld.global.nc.b32 1 m'",
    "cp.async.ca.shared.global [%r1], [%rd1], 16": "does not know the instruction",
    "mov.u32 %r1, %ctaid.y": "an operand must be .*, got '%ctaid.y'",
    "mov.b32 %r1, elsewhere": "an operand must be .*, got 'elsewhere'",
    "bra.uni nowhere": "an operand must be .*, got 'nowhere'",
    "ld.global.b32 %r1, [%rd1 + %rd2]": r"an address must be .*, got '\[%rd1 \+ %rd2\]'",
}


@pytest.mark.parametrize("statement", UNKNOWN)
def test_what_the_machine_does_not_know_is_refused_by_name(statement: str) -> None:
    with pytest.raises(ValueError, match=f"by_hand: .*{UNKNOWN[statement]}"):
        run_by_hand(f"{statement};")


def test_text_that_is_no_kernel_is_refused() -> None:
    kernel = ptx("@%p1 FOO;", 0)
    with pytest.raises(ValueError, match="a statement must be '@guard name operands', got '@%p1 FOO'"):
        parse(kernel)
    with pytest.raises(ValueError, match=r"by_hand must say its number of threads \(.reqntid\)"):
        parse(kernel.replace(".reqntid 32", ""))
    with pytest.raises(ValueError, match=r"must have one \.entry and its body, got 2"):
        parse(kernel * 2)
    with pytest.raises(ValueError, match="the label here must stand in one place, got two"):
        run_by_hand("here: bra here;\nhere: bra here;")


def test_threads_may_store_the_same_value_twice() -> None:
    target = torch.zeros(1)
    run_by_hand("ld.param.b64 %rd1, [p0];\nst.global.b32 [%rd1], 0f40A00000;", target, threads=64, programs=3)
    assert target.item() == 5
