"""Lanes, warps and programs: branches, shuffles, barriers, matrices, and asynchronous products."""

from __future__ import annotations

import pytest
import torch
from machine_code.ptx.handwritten import lane_values, run_by_hand
from torch import Tensor

LANES = torch.arange(32, dtype=torch.int32)
MASK13 = ~0x1FFF  # keeps what TF32 has of a float32


def cut(x: Tensor) -> Tensor:
    return (x.view(torch.int32) & MASK13).view(torch.float32)


def expected_product(a: Tensor, b: Tensor) -> Tensor:
    return (cut(a).double() @ cut(b).double()).float()


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("bfly.b32 %r100, %r0, 5, 31, -1", LANES ^ 5),
        ("idx.b32 %r100, %r0, 7, 31, -1", torch.full((32,), 7, dtype=torch.int32)),
        ("up.b32 %r100, %r0, 3, 0, -1", torch.where(LANES < 3, LANES, LANES - 3)),
        ("down.b32 %r100, %r0, 3, 31, -1", torch.where(LANES > 28, LANES, LANES + 3)),
        ("idx.b32 %r100, %r0, 1, 0x1C1F, -1", LANES // 4 * 4 + 1),  # segments of four lanes
    ],
    ids=str,
)
def test_shuffles(kind: str, source: Tensor) -> None:
    assert torch.equal(lane_values(f"shfl.sync.{kind};"), source)


@pytest.mark.parametrize(("kind", "expected"), [("add", 32 * 31 // 2 - 32 * 9), ("min", -9), ("max", 22)])
def test_reductions_of_a_warp(kind: str, expected: int) -> None:
    found = lane_values(f"sub.s32 %r1, %r0, 9;\nredux.sync.{kind}.s32 %r100, %r1, -1;")
    assert (found == expected).all()


def test_one_lane_is_elected() -> None:
    found = lane_values("elect.sync %r1|%p1, -1;\nselp.b32 %r100, 1, 0, %p1;")
    assert found.sum() == 1


def test_parts_of_registers() -> None:
    body = "mov.b64 %rd9, {%r0, 7};\nmov.b64 {%r2, %r3}, %rd9;\nmad.lo.s32 %r100, %r3, 100, %r2;"
    assert torch.equal(lane_values(body), LANES + 700)
    body = "mov.b32 %r1, {%rs1, 3};\nmov.b32 {_, %rs2}, %r1;\ncvt.u32.u16 %r100, %rs2;"
    assert (lane_values(f"mov.u16 %rs1, 9;\n{body}") == 3).all()


@pytest.mark.parametrize("seed", range(5))
def test_every_lane_loops_as_often_as_it_must(seed: int) -> None:
    body = """
        mov.u32 %r100, 0;
    again:
        setp.ge.u32 %p1, %r100, %r0;
        @%p1 bra out;
        add.s32 %r100, %r100, 1;
        bra.uni again;
    out:
        bar.warp.sync -1;
    """
    assert torch.equal(lane_values(body, seed=seed), LANES)


def test_guards() -> None:
    body = "and.b32 %r1, %r0, 1;\nsetp.eq.b32 %p1, %r1, 1;\nmov.u32 %r100, 5;\n"
    assert torch.equal(lane_values(body + "@%p1 mov.u32 %r100, 6;"), 5 + LANES % 2)
    assert torch.equal(lane_values(body + "@!%p1 mov.u32 %r100, 6;"), 6 - LANES % 2)


@pytest.mark.parametrize("seed", range(5))
def test_a_barrier_makes_shared_memory_visible(seed: int) -> None:
    body = """
        shl.b32 %r1, %r0, 2;
        mov.b32 %r2, global_smem;
        add.s32 %r3, %r2, %r1;
        st.shared.b32 [%r3], %r0;
        bar.sync 0;
        xor.b32 %r4, %r1, 508;
        add.s32 %r5, %r2, %r4;
        ld.shared.b32 %r100, [%r5];
    """
    assert torch.equal(lane_values(body, threads=128, seed=seed), torch.arange(128, dtype=torch.int32) ^ 127)


def test_shared_memory_starts_as_nan() -> None:
    assert lane_values("ld.shared.b32 %r100, [global_smem+4];").view(torch.float32).isnan().all()


def test_vectors_and_widths_of_memory() -> None:
    source, target = torch.arange(64, dtype=torch.int16), torch.zeros(64, dtype=torch.int16)
    run_by_hand(
        """
        mov.u32 %r0, %tid.x;
        setp.lt.u32 %p1, %r0, 8;
        ld.param.b64 %rd1, [p0];
        ld.param.b64 %rd2, [p1];
        mad.wide.u32 %rd1, %r0, 16, %rd1;
        mad.wide.u32 %rd2, %r0, 16, %rd2;
        @%p1 ld.global.v2.b64 {%rd3, %rd4}, [%rd1 + 0];
        @%p1 st.global.b64 [ %rd2 + 8 ], { %rd3 };
        @%p1 st.global.v4.b16 [%rd2], {%rd4, %rd4, %rd4, %rd4};
        @%p1 ld.global.s8 %r5, [%rd1 + 2];
        @%p1 st.global.b16 [%rd2 + 2], %r5;
        """,
        source,
        target,
    )
    expected = source.view(8, 2, 4).flip(1).clone()
    expected[:, 0] = expected[:, 0, :1]
    expected[:, 0, 1] = source.view(8, 8)[:, 1]
    assert torch.equal(target.view(8, 2, 4), expected)


def test_atomic_sums_of_all_programs() -> None:
    total = torch.zeros(1, dtype=torch.int64)
    body = """
        ld.param.b64 %rd1, [p0];
        mov.u32 %r1, %ctaid.x;
        cvt.u64.u32 %rd2, %r1;
        atom.global.gpu.relaxed.add.u64 %rd3, [ %rd1 + 0 ], %rd2;
    """
    run_by_hand(body, total, threads=64, programs=10)
    assert total.item() == 64 * sum(range(10))


def test_matrices_in_registers() -> None:
    """``ldmatrix`` gives lane 4 r + c the numbers of row r, column c; ``stmatrix`` is its inverse."""
    matrices, made = torch.randn(32, 4), torch.zeros(32, 4)
    run_by_hand(
        """
        mov.u32 %r0, %tid.x;
        ld.param.b64 %rd1, [p0];
        mad.wide.u32 %rd1, %r0, 16, %rd1;
        ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd1];
        shl.b32 %r5, %r0, 4;
        mov.b32 %r6, global_smem;
        add.s32 %r7, %r6, %r5;
        st.shared.v4.b32 [%r7], {%r1, %r2, %r3, %r4};
        bar.warp.sync -1;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r11, %r12, %r13, %r14}, [%r7];
        ld.param.b64 %rd2, [p1];
        mad.wide.u32 %rd2, %r0, 4, %rd2;
        st.global.b32 [%rd2], %r11;
        st.global.b32 [%rd2 + 128], %r12;
        st.global.b32 [%rd2 + 256], %r13;
        st.global.b32 [%rd2 + 384], %r14;
        bar.warp.sync -1;
        stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r7], {%r12, %r11, %r13, %r14};
        bar.warp.sync -1;
        ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r7];
        st.global.v4.b32 [%rd1], {%r1, %r2, %r3, %r4};
        """,
        (stored := matrices.clone()),
        made,
    )
    assert torch.equal(made, matrices)
    assert torch.equal(stored, torch.cat([matrices[8:16], matrices[:8], matrices[16:]]))


def test_matrices_are_transposed_between_lanes_and_shared_memory() -> None:
    matrix, made = torch.arange(64, dtype=torch.int16).view(8, 8), torch.zeros(8, 8, dtype=torch.int16)
    run_by_hand(
        """
        mov.u32 %r0, %tid.x;
        ld.param.b64 %rd1, [p0];
        mad.wide.u32 %rd2, %r0, 4, %rd1;
        ld.global.b32 %r1, [%rd2];
        mov.b32 %r6, global_smem;
        shl.b32 %r5, %r0, 2;
        add.s32 %r7, %r6, %r5;
        st.shared.b32 [%r7], %r1;
        bar.warp.sync -1;
        and.b32 %r8, %r0, 7;
        shl.b32 %r8, %r8, 4;
        add.s32 %r9, %r6, %r8;
        ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r11}, [%r9];
        ld.param.b64 %rd3, [p1];
        mad.wide.u32 %rd4, %r0, 4, %rd3;
        st.global.b32 [%rd4], %r11;
        bar.warp.sync -1;
        stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%r9], {%r1};
        bar.warp.sync -1;
        ld.shared.b32 %r1, [%r7];
        st.global.b32 [%rd2], %r1;
        """,
        (stored := matrix.clone()),
        made,
    )
    assert torch.equal(made, matrix.T)
    assert torch.equal(stored, matrix.T)


def fragments(matrix: Tensor) -> Tensor:
    """What the lanes hold of ``[16, 8]``: of lane 4 r + c, rows r and r + 8, columns c and c + 4."""
    return matrix.view(2, 8, 2, 4).permute(1, 3, 2, 0).reshape(32, 4)


def sums(registers: Tensor) -> Tensor:
    """The ``[16, columns]`` whose lane 4 r + c holds rows r and r + 8, columns 2 c and 2 c + 1 of eight."""
    return registers.view(8, 4, -1, 2, 2).permute(3, 0, 2, 1, 4).reshape(16, -1)


LOAD_A = """
    mov.u32 %r0, %tid.x;
    and.b32 %r9, %r0, 31;
    ld.param.b64 %rd1, [p0];
    mad.wide.u32 %rd1, %r0, 16, %rd1;
    ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd1];
"""


def test_a_product_of_a_warp() -> None:
    a, b, made = torch.randn(16, 8), torch.randn(8, 8), torch.zeros(32, 4)
    body = f"""
        {LOAD_A}
        ld.param.b64 %rd2, [p1];
        mad.wide.u32 %rd2, %r0, 8, %rd2;
        ld.global.v2.b32 {{%r5, %r6}}, [%rd2];
        mov.b32 %r10, 0f3F800000;
        mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32
            {{%r1, %r2, %r3, %r4}}, {{%r1, %r2, %r3, %r4}}, {{%r5, %r6}}, {{%r10, %r10, %r10, %r10}};
        ld.param.b64 %rd3, [p2];
        mad.wide.u32 %rd3, %r0, 16, %rd3;
        st.global.v4.b32 [%rd3], {{%r1, %r2, %r3, %r4}};
    """
    of_lanes = b.view(2, 4, 8).permute(2, 1, 0).contiguous()  # lane 4 c + k holds rows k and k + 4 of column c
    run_by_hand(body, fragments(a), of_lanes, made)
    torch.testing.assert_close(sums(made), expected_product(a, b) + 1, rtol=1e-6, atol=1e-6)


def swizzled(matrix: Tensor, width: int) -> Tensor:
    """``[rows, 8]`` in rows of ``width`` bytes; chunks of 16 bytes change places within blocks of 8 rows."""
    rows = torch.full((len(matrix), width // 16, 4), float("nan"))
    for r, row in enumerate(matrix.view(-1, 2, 4)):
        for chunk in range(2):
            rows[r, chunk ^ r % 8 * width // 128] = row[chunk]
    return rows


STORE_B = """
    ld.param.b64 %rd2, [p1];
    mad.wide.u32 %rd2, %r0, 16, %rd2;
    shl.b32 %r11, %r0, 4;
    mov.b32 %r12, global_smem;
    add.s32 %r13, %r12, %r11;
    ld.param.b64 %rd5, [p2];
    cvt.u32.u64 %r14, %rd5;
    setp.lt.u32 %p1, %r0, %r14;
    @%p1 ld.global.v4.b32 {%r15, %r16, %r17, %r18}, [%rd2];
    @%p1 st.shared.v4.b32 [%r13], {%r15, %r16, %r17, %r18};
    fence.proxy.async.shared::cta;
    bar.sync 0;
"""
DESCRIPTORS = {128: 1 << 62 | 64 << 32, 64: 2 << 62 | 32 << 32, 32: 3 << 62 | 16 << 32}  # mode, 8 rows' bytes / 16


@pytest.mark.parametrize("width", DESCRIPTORS)
def test_an_asynchronous_product_of_a_warp_group(width: int) -> None:
    a, b, made = torch.randn(64, 8), torch.randn(16, 8), torch.zeros(128, 8)
    results = ", ".join(f"%r{i}" for i in range(20, 28))
    body = f"""
        {LOAD_A}
        {STORE_B}
        {"".join(f"mov.b32 %r{i}, 0f3F800000;" for i in range(20, 28))}
        mov.pred %p2, -1;
        wgmma.fence.sync.aligned;
        wgmma.mma_async.sync.aligned.m64n16k8.f32.tf32.tf32
            {{{results}}}, {{%r1, %r2, %r3, %r4}}, {(DESCRIPTORS[width] | 64) % 2**64}, %p2, 1, 1;
        wgmma.commit_group.sync.aligned;
        wgmma.wait_group.sync.aligned 0;
        ld.param.b64 %rd3, [p3];
        mad.wide.u32 %rd3, %r0, 32, %rd3;
        st.global.v4.b32 [%rd3], {{%r20, %r21, %r22, %r23}};
        st.global.v4.b32 [%rd3 + 16], {{%r24, %r25, %r26, %r27}};
    """
    of_lanes = torch.cat([fragments(rows) for rows in a.split(16)])
    run_by_hand(body, of_lanes, swizzled(b, width), width, made, threads=128, shared=16 * width)
    found = torch.cat([sums(warp) for warp in made.split(32)])
    torch.testing.assert_close(found, expected_product(a, b.T) + 1, rtol=1e-6, atol=1e-6)


def test_a_product_in_tensor_memory() -> None:
    a, b, made = torch.randn(128, 8), torch.randn(16, 8), torch.zeros(128, 16)
    results = ", ".join(f"%r{i}" for i in range(20, 36))
    kind = 1 << 4 | 2 << 7 | 2 << 10 | 16 // 8 << 17 | 128 // 16 << 24
    body = f"""
        mov.u32 %r0, %tid.x;
        mov.b32 %r12, global_smem;
        setp.lt.u32 %p1, %r0, 32;
        @%p1 tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r12 + 8192], 32;
        setp.eq.b32 %p2, %r0, 0;
        @%p2 mbarrier.init.shared::cta.b64 [%r12 + 8200], 1;
        ld.param.b64 %rd1, [p0];
        mad.wide.u32 %rd1, %r0, 32, %rd1;
        ld.global.v4.b32 {{%r1, %r2, %r3, %r4}}, [%rd1];
        ld.global.v4.b32 {{%r5, %r6, %r7, %r8}}, [%rd1 + 16];
        shl.b32 %r9, %r0, 5;
        add.s32 %r9, %r12, %r9;
        st.shared.v4.b32 [%r9], {{%r1, %r2, %r3, %r4}};
        st.shared.v4.b32 [%r9 + 16], {{%r5, %r6, %r7, %r8}};
        ld.param.b64 %rd2, [p1];
        mad.wide.u32 %rd2, %r0, 16, %rd2;
        setp.lt.u32 %p3, %r0, 32;
        shl.b32 %r10, %r0, 4;
        add.s32 %r10, %r12, %r10;
        @%p3 ld.global.v4.b32 {{%r1, %r2, %r3, %r4}}, [%rd2];
        @%p3 st.shared.v4.b32 [%r10 + 4096], {{%r1, %r2, %r3, %r4}};
        fence.proxy.async.shared::cta;
        bar.sync 0;
        ld.shared.b32 %r11, [%r12 + 8192];
        @%p1 tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;
        shr.u32 %r13, %r0, 5;
        shl.b32 %r13, %r13, 21;
        add.s32 %r13, %r11, %r13;
        mov.b32 %r14, 0f40000000;
        tcgen05.st.sync.aligned.32x32b.x16.b32 [%r13 + 0], {{{", ".join(["%r14"] * 16)}}};
        tcgen05.wait::st.sync.aligned;
        bar.sync 0;
        mov.pred %p4, -1;
        @%p2 tcgen05.mma.cta_group::1.kind::tf32 [ %r11 + 0 ],
            {DESCRIPTORS[32] | 64}, {DESCRIPTORS[32] | (1024 + 4096) >> 4}, {kind}, %p4;
        cvt.u64.u32 %rd4, %r12;
        @%p2 tcgen05.commit.cta_group::1.mbarrier::arrive::one.b64 [%rd4 + 8200];
        waitLoop:
        mbarrier.try_wait.parity.shared.b64 %p5, [%r12 + 8200], 0;
        @!%p5 bra.uni waitLoop;
        bar.sync 0;
        tcgen05.ld.sync.aligned.32x32b.x16.b32 {{{results}}}, [%r13 + 0];
        tcgen05.wait::ld.sync.aligned;
        ld.param.b64 %rd3, [p2];
        mad.wide.u32 %rd3, %r0, 64, %rd3;
        {"".join(f"st.global.b32 [%rd3 + {4 * i}], %r{20 + i};" for i in range(16))}
        bar.sync 0;
        @%p2 mbarrier.inval.shared::cta.b64 [%r12 + 8200];
        @%p1 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r11, 32;
    """
    run_by_hand(body, swizzled(a, 32), swizzled(b, 32), made, threads=128, shared=8208)
    torch.testing.assert_close(made, expected_product(a, b.T) + 2, rtol=1e-6, atol=1e-6)
