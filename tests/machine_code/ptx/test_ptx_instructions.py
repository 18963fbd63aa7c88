"""Every family of instructions does what the PTX manual says, on values whose results are known."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from machine_code.ptx.handwritten import evaluate, lane_values

LOW, HIGH = -(2**31), 2**31 - 1
TINY = 2.0**-149  # the smallest denormal float32
NAN, INF = math.nan, math.inf
SLIGHTLY = 1 + 2.0**-12  # its square needs 24 bits behind the point

INTEGERS = [
    ("add.s32", "ii>i", (HIGH, 1), LOW), ("sub.s32", "ii>i", (LOW, 1), HIGH),
    ("add.s64", "qq>q", (2**40, -1), 2**40 - 1), ("add.s16", "hh>h", (2**15 - 1, 1), -(2**15)),
    ("sub.s16", "hh>h", (5, 7), -2), ("sub.s64", "qq>q", (1, 3), -2),
    ("mul.lo.s32", "ii>i", (2**16, 2**16 + 3), 3 * 2**16), ("mul.lo.s16", "hh>h", (171, 300), 171 * 300 - 2**16),
    ("mul.lo.s64", "qq>q", (-3, 2**40), -3 * 2**40), ("mul.hi.s32", "ii>i", (-(2**30), 6), -2),
    ("mul.hi.u32", "II>I", (2**31, 6), 3), ("mul.wide.s32", "ii>q", (-(2**31), 2), -(2**32)),
    ("mul.wide.u32", "II>Q", (2**32 - 1, 2**32 - 1), (2**32 - 1) ** 2), ("mul.wide.s16", "hh>i", (-300, 300), -90000),
    ("mad.lo.s32", "iii>i", (7, -3, 1), -20), ("mad.lo.s64", "qqq>q", (2**33, 4, 5), 2**35 + 5),
    ("mad.wide.s32", "iiq>q", (-1, 4, 2**40), 2**40 - 4), ("mad.wide.u32", "IIQ>Q", (2**32 - 1, 4, 1), 2**34 - 3),
    ("div.s32", "ii>i", (-7, 2), -3), ("rem.s32", "ii>i", (-7, 2), -1), ("div.u32", "II>I", (2**32 - 1, 2), HIGH),
    ("div.s32", "ii>i", (LOW, -1), LOW), ("rem.s64", "qq>q", (-(2**40) - 1, 2**40), -1),
    ("rem.u32", "II>I", (2**32 - 1, 10), 5), ("neg.s32", "i>i", (LOW,), LOW), ("abs.s32", "i>i", (-5,), 5),
    ("min.s32", "ii>i", (-1, 1), -1), ("max.s32", "ii>i", (-1, 1), 1), ("min.u32", "II>I", (2**32 - 1, 1), 1),
    ("max.u32", "II>I", (2**32 - 1, 1), 2**32 - 1), ("shl.b32", "iI>i", (1, 31), LOW),
    ("min.relu.s32", "ii>i", (-1, 1), 0), ("min.relu.s32", "ii>i", (3, 2), 2), ("max.relu.s32", "ii>i", (-1, -2), 0),
    ("max.relu.s32", "ii>i", (-1, 2), 2),
    ("shl.b32", "iI>i", (1, 32), 0), ("shl.b64", "qI>q", (1, 40), 2**40), ("shl.b16", "HI>H", (3, 15), 2**15),
    ("shr.s32", "iI>i", (-8, 1), -4), ("shr.s32", "iI>i", (-8, 99), -1), ("shr.u32", "II>I", (2**31, 31), 1),
    ("shr.u32", "II>I", (2**31, 32), 0), ("shr.u16", "HI>H", (2**15, 9), 64),
    ("shr.s64", "qI>q", (-(2**40), 32), -256), ("and.b32", "II>I", (12, 10), 8), ("or.b32", "II>I", (12, 10), 14),
    ("xor.b32", "II>I", (12, 10), 6), ("not.b32", "I>I", (0,), 2**32 - 1),
    ("and.b64", "qq>q", (-1, -(2**32)), -(2**32)), ("or.b16", "HH>H", (1, 2), 3), ("not.b16", "H>H", (1,), 2**16 - 2),
    ("bfe.u32", "III>I", (0xABCD, 4, 8), 0xBC), ("bfe.s32", "iII>i", (0x80, 4, 4), -8),
    ("bfe.s32", "iII>i", (-1, 40, 3), -1), ("bfe.u32", "III>I", (0xFFFFFFFF, 28, 9), 15),
    ("bfe.u64", "QII>Q", (2**40 + 2**35, 32, 8), 8), ("bfe.s64", "qII>q", (2**39, 32, 8), -(2**7)),
    ("shf.l.wrap.b32", "III>I", (2**31 + 5, 2**31 + 5, 1), 11), ("shf.r.wrap.b32", "III>I", (2, 1, 33), 2**31 + 1),
    ("bfe.u32", "III>I", (7, 0, 0), 0), ("prmt.b32", "III>I", (0x33221100, 0x77665544, 0x3340), 0x33334400),
    ("prmt.b32", "III>I", (0x80, 0, 0x0008), 0x808080FF), ("add.s16x2", "II>I", (0x0001FFFF, 0x00010001), 0x00020000),
    ("selp.b32", "IIB>I", (1, 2, 1), 1), ("selp.f32", "ffB>f", (1, 2, 0), 2), ("mov.b64", "q>q", (-5,), -5),
    ("mov.u16", "H>H", (9,), 9),
]  # fmt: skip


def pair(low: float, high: float) -> int:
    """Two float32 numbers in 64 bits."""
    return struct.unpack("<q", struct.pack("<ff", low, high))[0]


FLOATS = [
    ("add.f32", "ff>f", (1, 2.0**-24), 1), ("add.f32", "ff>f", (TINY, TINY), 2 * TINY),
    ("add.ftz.f32", "ff>f", (TINY, TINY), 0), ("sub.f32", "ff>f", (INF, INF), NAN),
    ("mul.f32", "ff>f", (SLIGHTLY, SLIGHTLY), 1 + 2.0**-11), ("mul.f64", "dd>d", (SLIGHTLY, SLIGHTLY), SLIGHTLY**2),
    ("fma.rn.f32", "fff>f", (SLIGHTLY, SLIGHTLY, -1 - 2.0**-11), 2.0**-24),
    ("fma.rn.ftz.f32", "fff>f", (TINY, 1, 0), 0), ("fma.rn.f64", "ddd>d", (3, 4, -12), 0),
    ("div.rn.f64", "dd>d", (1, 3), 1 / 3), ("sqrt.rn.f32", "f>f", (9,), 3), ("max.f32", "ff>f", (NAN, 1), 1),
    ("min.f32", "ff>f", (1, NAN), 1), ("max.NaN.f32", "ff>f", (NAN, 1), NAN), ("min.NaN.f32", "ff>f", (1, NAN), NAN),
    ("max.f32", "ff>f", (-0.0, 0.0), 0.0), ("min.f32", "ff>f", (0.0, -0.0), -0.0), ("max.f64", "dd>d", (NAN, 2), 2),
    ("max.f32", "ff>f", (NAN, NAN), NAN), ("neg.f32", "f>f", (0.0,), -0.0), ("abs.f32", "f>f", (-2,), 2),
    ("ex2.approx.ftz.f32", "f>f", (-0.0,), 1),
    ("neg.f64", "d>d", (3,), -3), ("add.f32x2", "qq>q", (pair(1, 2), pair(3, 5)), pair(4, 7)),
    ("fma.rn.f32x2", "qqq>q", (pair(3, SLIGHTLY), pair(2, SLIGHTLY), pair(1, -1 - 2.0**-11)), pair(7, 2.0**-24)),
]  # fmt: skip
APPROXIMATIONS = [
    ("div.full.f32", "ff>f", (1, 2.0**127), 2.0**-127), ("div.approx.ftz.f32", "ff>f", (3, 2), 1.5),
    ("div.approx.ftz.f32", "ff>f", (1, 2.0**127), 0), ("div.approx.ftz.f32", "ff>f", (INF, 2.0**127), NAN),
    ("ex2.approx.ftz.f32", "f>f", (-3,), 0.125), ("ex2.approx.ftz.f32", "f>f", (-140,), 0),
    ("ex2.approx.f32", "f>f", (-140,), 2.0**-140), ("ex2.approx.ftz.f32", "f>f", (-INF,), 0),
    ("lg2.approx.f32", "f>f", (8,), 3), ("rcp.approx.ftz.f32", "f>f", (4,), 0.25),
    ("rsqrt.approx.f32", "f>f", (4,), 0.5), ("sqrt.approx.f32", "f>f", (4,), 2),
]  # fmt: skip
CONVERSIONS = [
    ("cvt.s32.s8", "b>i", (-1,), -1), ("cvt.u32.u16", "H>I", (2**16 - 1,), 2**16 - 1),
    ("cvt.s64.s32", "i>q", (-2,), -2), ("cvt.u64.u32", "I>Q", (2**32 - 1,), 2**32 - 1),
    ("cvt.u32.u64", "Q>I", (2**32 + 5,), 5), ("cvt.u16.u32", "I>H", (2**16 + 5,), 5),
    ("cvt.s16.s8", "b>h", (-7,), -7), ("cvt.s32.s16", "h>i", (-7,), -7),
    ("cvt.rn.f32.s32", "i>f", (2**24 + 1,), 2.0**24), ("cvt.rn.f32.u32", "I>f", (2**32 - 1,), 2.0**32),
    ("cvt.rn.f64.u32", "I>d", (2**32 - 1,), 2.0**32 - 1), ("cvt.rzi.s32.f32", "f>i", (-1.9,), -1),
    ("cvt.rzi.s32.f32", "f>i", (3e9,), HIGH), ("cvt.rzi.s32.f32", "f>i", (-INF,), LOW),
    ("cvt.rzi.s32.f32", "f>i", (NAN,), 0), ("cvt.rzi.s64.f32", "f>q", (NAN,), -(2**63)),
    ("cvt.rzi.s64.f32", "f>q", (2.0**70,), 2**63 - 1), ("cvt.rzi.u32.f32", "f>I", (-3,), 0),
    ("cvt.rni.s32.f32", "f>i", (2.5,), 2), ("cvt.rmi.ftz.f32.f32", "f>f", (-1.5,), -2),
    ("cvt.rmi.ftz.f32.f32", "f>f", (-TINY,), -0.0), ("cvt.rpi.f32.f32", "f>f", (1.2,), 2),
    ("cvt.rni.f32.f32", "f>f", (2.5,), 2), ("cvt.f64.f32", "f>d", (1 + 2.0**-23,), 1 + 2.0**-23),
    ("cvt.rn.f32.f64", "d>f", (1 + 2.0**-25,), 1), ("cvt.f32.f16", "e>f", (0.333251953125,), 0.333251953125),
    ("cvt.rn.f16.f32", "f>e", (1 + 2.0**-11,), 1), ("cvt.rn.f16.f32", "f>e", (1e6,), INF),
    ("cvt.f32.bf16", "H>f", (0x3F81,), 1 + 2.0**-7), ("cvt.f64.bf16", "H>d", (0xC000,), -2),
    ("cvt.rn.bf16.f32", "f>H", (1 + 2.0**-8,), 0x3F80), ("cvt.rn.bf16.f32", "f>H", (1 + 3 * 2.0**-8,), 0x3F82),
    ("cvt.rn.bf16x2.f32", "ff>I", (1, -2), 0x3F80C000), ("cvt.rn.f16x2.f32", "ff>I", (1, -2), 0x3C00C000),
    ("cvt.rn.bf16.f32", "f>H", (NAN,), 0x7FFF), ("cvt.rn.bf16.f32", "f>H", (INF,), 0x7F80),
    ("abs.bf16", "H>H", (0xC000,), 0x4000), ("abs.f16", "e>e", (-2,), 2),
    ("cvt.rna.tf32.f32", "f>f", (1 + 2.0**-11,), 1 + 2.0**-10), ("cvt.rna.tf32.f32", "f>f", (-1 - 2.0**-12,), -1),
]  # fmt: skip
COMPARISONS = [
    ("lt.s32", "ii", (-1, 0), 1), ("lt.u32", "II", (2**32 - 1, 0), 0), ("ge.s64", "qq", (2**40, 2**40), 1),
    ("gt.s32", "ii", (1, 1), 0), ("le.s32", "ii", (1, 1), 1), ("eq.b32", "II", (5, 5), 1),
    ("ne.b64", "qq", (2**32, 0), 1), ("eq.b16", "HH", (1, 2), 0), ("eq.f32", "ff", (0.0, -0.0), 1),
    ("ne.f32", "ff", (NAN, 1), 0), ("neu.f32", "ff", (NAN, 1), 1), ("lt.f32", "ff", (NAN, 1), 0),
    ("ltu.f32", "ff", (NAN, 1), 1), ("leu.f32", "ff", (2, 1), 0), ("gtu.f32", "ff", (2, 1), 1),
    ("geu.f32", "ff", (NAN, NAN), 1), ("equ.f32", "ff", (NAN, 1), 1), ("nan.f64", "dd", (NAN, 1), 1),
    ("nan.f64", "dd", (0, 1), 0), ("num.f32", "ff", (0, 1), 1), ("ge.bf16", "HH", (0xC000, 0x3F80), 0),
    ("ge.f16", "ee", (1, -2), 1),
]  # fmt: skip


@pytest.mark.parametrize(("instruction", "types", "values", "expected"), [*INTEGERS, *FLOATS, *CONVERSIONS], ids=str)
def test_arithmetic(instruction: str, types: str, values: tuple[float, ...], expected: float) -> None:
    found = evaluate(instruction, types, *values)
    if math.isnan(expected):
        assert math.isnan(found)
    else:
        assert found == expected
        assert math.copysign(1, found) == math.copysign(1, expected)


@pytest.mark.parametrize(("instruction", "types", "values", "expected"), APPROXIMATIONS, ids=str)
def test_approximations(instruction: str, types: str, values: tuple[float, ...], expected: float) -> None:
    found = evaluate(instruction, types, *values)
    assert found == pytest.approx(expected, rel=2**-22, abs=0, nan_ok=True)


def test_approximations_err_as_a_gpu_may() -> None:
    assert any(evaluate("div.full.f32", "ff>f", 3 * i, 3) != i for i in range(1, 9))


@pytest.mark.parametrize(("name", "types", "values", "expected"), COMPARISONS, ids=str)
def test_comparisons(name: str, types: str, values: tuple[float, ...], expected: int) -> None:
    assert evaluate(f"setp.{name}", f"{types}>B", *values) == expected


@pytest.mark.parametrize(("type_", "dtype"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize(("name", "expected"), [("lt", 0), ("le", 2), ("gt", 1), ("ge", 3)])
def test_a_comparison_of_pairs_has_two_predicates(name: str, expected: int, type_: str, dtype: torch.dtype) -> None:
    x, y = (torch.tensor([pair], dtype=dtype).repeat(32, 1).view(torch.int32)[:, 0] for pair in ([2, 1], [-1, 1]))
    body = f"setp.{name}.{type_}x2 %p1|%p2, %r1, %r2;\nselp.b32 %r3, 1, 0, %p1;\nselp.b32 %r4, 2, 0, %p2;\n"
    assert (lane_values(f"{body}or.b32 %r100, %r3, %r4;", x.contiguous(), y.contiguous()) == expected).all()


@pytest.mark.parametrize(("name", "table"), [("and", (0, 0, 0, 1)), ("or", (0, 1, 1, 1)), ("xor", (0, 1, 1, 0))])
def test_predicates(name: str, table: tuple[int, ...]) -> None:
    assert table == tuple(evaluate(f"{name}.pred", "BB>B", x, y) for x in (0, 1) for y in (0, 1))
    assert evaluate("not.pred", "B>B", 1) == 0
