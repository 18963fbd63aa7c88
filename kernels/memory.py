"""How kernels read and write maps: limits on their sizes, strides, masked loads and stores."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

MAX_EDGE = 32000


def check_edges(*edges: int) -> None:
    """Raises ValueError if an edge is longer than ``MAX_EDGE``: twice the product of two must fit in 32 bits."""
    if max(edges) > MAX_EDGE:
        raise ValueError(
            f"height and width must be at most {MAX_EDGE} pixels for the Triton kernels, got {max(edges)}; "
            "the backend 'reference' has no such limit"
        )


def plane_strides(
    maps: Tensor,  # [..., H, W]
) -> tuple[int, int]:
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
    """``plane[offsets]``, and 0 where ``inside`` is false.

    The load goes through one dimension, where neighbouring threads always read neighbours of the last axis. Otherwise
    the compiler lays out a load of several dimensions by what it knows of the addresses, and shuffles values at every
    use.
    """
    flat = tl.load(plane + tl.reshape(offsets, [offsets.numel]), tl.reshape(inside, [inside.numel]), 0)
    return tl.reshape(flat, offsets.shape)


@triton.jit
def scatter(plane, offsets, values, inside):
    """``plane[offsets] = values`` where ``inside``. The store goes through one dimension as in :func:`gather`."""
    n: tl.constexpr = offsets.numel
    tl.store(plane + tl.reshape(offsets, [n]), tl.reshape(values, [n]), tl.reshape(inside, [n]))


@triton.jit
def weight_at(pointers, exists):
    """Weights of any dtype in float32, and 0 where ``exists`` is false."""
    return tl.load(pointers, exists, 0).to(tl.float32)
