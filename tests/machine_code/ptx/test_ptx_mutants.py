"""A barrier, wait, shuffle or mask that is left out is seen, and one that is not needed is not."""

from __future__ import annotations

import pytest
import torch
from machine_code.ptx.assembler import assemble
from machine_code.ptx.cases import CAPABILITIES, CASES
from machine_code.ptx.handwritten import ptx
from machine_code.ptx.interpreter import Launch, find, run
from machine_code.ptx.mutants import (
    RESULTS,
    THOROUGH,
    WITHOUT_EFFECT,
    Recorded,
    examine,
    launches,
    memory,
    mutants,
    seen,
)
from machine_code.ptx.text import parse

from benchmarks.common.results import read

EXCHANGE = """
    mov.u32 %r0, %tid.x;
    shl.b32 %r1, %r0, 2;
    mov.b32 %r2, global_smem;
    add.s32 %r3, %r2, %r1;
    st.shared.b32 [%r3], %r0;
    bar.sync 0;
    xor.b32 %r4, %r3, 4;
    ld.shared.b32 %r5, [%r4];
    shfl.sync.bfly.b32 %r6, %r5, 1, 31, -1;
    ld.param.b64 %rd1, [p0];
    mad.wide.u32 %rd1, %r0, 4, %rd1;
    setp.lt.u32 %p1, %r0, 50;
    setp.lt.u32 %p2, %r0, 99;
    @%p1 st.global.b32 [%rd1], %r6;
    @%p2 ld.global.b32 %r7, [%rd1];
    {again}
"""
NEEDLESS = "bar.sync 0; shfl.sync.idx.b32 %r8, %r7, 0, 31, -1;"


def by_kind(again: str) -> dict[str, tuple[dict[str, int], dict[str, int]]]:
    kernel = parse(ptx(EXCHANGE.format(again=again), 1, threads=64))
    launch = Launch(1, (("p0", torch.zeros(64, dtype=torch.int32)),), 256)
    before = [x.clone() for x in memory(launch)]
    run(assembled := assemble(kernel, find), launch, 0)
    recorded = Recorded(assembled, launch, [(before, [x.clone() for x in memory(launch)])])
    return {row["left out"]: (row["seen"], row["without effect"]) for row in examine(recorded)}


def test_what_is_needed_is_told_from_what_is_not() -> None:
    masks = ({"other values": 1}, {WITHOUT_EFFECT["idle mask"]: 1})
    needed = {"barrier": ({"race": 1}, {}), "shuffle": ({"other values": 1}, {}), "mask": masks}
    assert by_kind("") == needed
    assert by_kind(NEEDLESS) == needed | {
        "barrier": ({"race": 1}, {WITHOUT_EFFECT["barrier"]: 1}),
        "shuffle": ({"other values": 1}, {WITHOUT_EFFECT["shuffle"]: 1}),
    }


@pytest.mark.parametrize(
    ("case", "kernel", "capability", "needless"),
    [
        ("segmentation_loss", "segmentation_loss", 90, 0),
        ("homography_warp", "homography_warp_backward", 90, 0),
        ("align, TF32", "first_layer_backward", 90, 0),
        ("align, TF32", "first_layer_backward", 100, 4),  # where Triton puts several in a row
    ],
)
def test_barriers_and_waits_are_needed(case: str, kernel: str, capability: int, needless: int) -> None:
    recorded = launches(CASES[case], capability)[kernel]
    original = recorded.assembled.kernel
    tried = [(i, mutant) for kind, i, mutant in mutants(original) if kind in ("barrier", "wait")]
    unseen = [f"{i}: {original.statements[i]}" for i, mutant in tried if not seen(mutant, recorded)]
    assert len(unseen) == needless < len(tried), unseen


def test_the_results_hold_every_kernel_that_has_barriers() -> None:
    rows = read(RESULTS)["rows"]
    kernels = {kernel for case in CASES.values() for kernel in case.kernels}
    assert {row["kernel"] for row in rows if row["sm"] == THOROUGH} == kernels
    for kind, capabilities in (("barrier", set(CAPABILITIES)), ("wait", {90, 100})):  # sm_80 waits for no product
        assert {row["sm"] for row in rows if row["left out"] == kind} == capabilities
    assert {reason for row in rows for reason in row["without effect"]} <= set(WITHOUT_EFFECT.values())
