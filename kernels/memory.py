"""How kernels address maps."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

MAX_EDGE = 32000


def check_edges(*edges: int) -> None:
    """Raises ValueError if one is longer than ``MAX_EDGE``: twice the product of two must fit in 32 bits."""
    if max(edges) > MAX_EDGE:
        raise ValueError(
            f"height and width must be at most {MAX_EDGE} pixels for the Triton kernels, got {max(edges)}; "
            "the backend 'reference' has no such limit"
        )


def plane_strides(maps: Tensor) -> tuple[int, int]:
    """Strides of y and x.

    Raises:
        ValueError: offsets within a plane would not fit in 32 bits.
    """
    (height, width), (y, x) = maps.shape[-2:], maps.stride()[-2:]
    if (height - 1) * abs(y) + (width - 1) * abs(x) >= 2**31:
        raise ValueError(
            f"a {height} x {width} map with strides {maps.stride()} spans 2^31 elements: make it contiguous"
        )
    return y, x


@triton.jit
def gather(plane, offsets, inside):
    """``plane[offsets]``, 0 outside.

    By way of one dimension, where neighbouring threads always read neighbours of the last axis. Left to itself the
    compiler lays out a load of several dimensions by what it knows of the addresses, and shuffles values at every use.
    """
    flat = tl.load(plane + tl.reshape(offsets, [offsets.numel]), tl.reshape(inside, [inside.numel]), 0)
    return tl.reshape(flat, offsets.shape)


@triton.jit
def scatter(plane, offsets, values, inside):
    """``plane[offsets] = values``, by way of one dimension as well."""
    n: tl.constexpr = offsets.numel
    tl.store(plane + tl.reshape(offsets, [n]), tl.reshape(values, [n]), tl.reshape(inside, [n]))


@triton.jit
def weight_at(place, real):
    """In float32, of whatever dtype they are; 0 where there is none."""
    return tl.load(place, real, 0).to(tl.float32)
