"""Triton's interpreter computes with NumPy; here it gets the rules of a GPU where NumPy's differ.

- The larger or the smaller of a number and NaN is the number, unless the kernel asks for ``propagate_nan``.
- A float that an integer type cannot hold becomes the nearest integer of the type. NaN becomes 0, or the smallest in
  64 bits.
- Matrix units take operands of TF32 without their 13 low bits.
- The programs of a launch run in any order.

``tests/kernels/test_gpu_rules.py`` checks the rules; where there is a GPU, it checks them against the GPU.
"""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from triton._C.libtriton import ir
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

TF32_BITS = np.int32(-0x2000)


def apply(seed: int) -> None:
    """Change the interpreter of this process; the order of programs depends on the seed."""
    builder: Any = InterpreterBuilder
    builder.create_maxnumf = lambda self, x, y: self.binary_op(x, y, np.fmax)
    builder.create_minnumf = lambda self, x, y: self.binary_op(x, y, np.fmin)
    builder.create_fp_to_si = _float_to_integer
    builder.create_dot = _cut_operands(builder.create_dot)
    _shuffle_programs(interpreter.interpreter_builder, Random(seed))


def _float_to_integer(self: Any, source: Any, kind: Any) -> Any:
    dtype = np.dtype(interpreter._get_np_dtype(kind))
    if source.data.dtype != np.float32 or dtype not in (np.int32, np.int64):
        raise NotImplementedError(f"how a GPU converts {source.data.dtype} to {dtype} is not written in gpu_rules.py")
    limits, x = np.iinfo(dtype), source.data
    bound = np.float32(2.0 ** (limits.bits - 1))
    if (np.abs(x) < bound).all():
        return TensorHandle(x.astype(dtype), kind.scalar)
    is_nan, high, low = np.isnan(x), x >= bound, x < -bound
    whole = np.where(is_nan | high | low, 0, x).astype(dtype)
    of_nan = 0 if limits.bits == 32 else limits.min
    return TensorHandle(np.select([is_nan, high, low], [of_nan, limits.max, limits.min], whole), kind.scalar)


def _cut_operands(dot: Any) -> Any:
    def cut(x: Any) -> Any:
        return TensorHandle((np.ascontiguousarray(x.data).view(np.int32) & TF32_BITS).view(np.float32), x.dtype)

    def create_dot(self: Any, x: Any, y: Any, total: Any, precision: Any, imprecise: Any) -> Any:
        if precision == ir.INPUT_PRECISION.TF32 and x.data.dtype == np.float32:
            x, y = cut(x), cut(y)
        return dot(self, x, y, total, precision, imprecise)

    return create_dot


def _shuffle_programs(builder: Any, random: Random) -> None:
    set_sizes, set_place = builder.set_grid_dim, builder.set_grid_idx
    order: list[int] = []

    def set_grid_dim(x: int, y: int, z: int) -> None:
        order[:] = random.sample(range(x), x)
        set_sizes(x, y, z)

    builder.set_grid_dim = set_grid_dim
    builder.set_grid_idx = lambda x, y, z: set_place(order[x], y, z)
