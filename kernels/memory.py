"""How kernels read and write maps: limits on their sizes, strides, masked loads and stores."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

MAX_EDGE = 32000
# Whole numbers that differ between launches of a run: counts, sizes, and all strides but those of x. To know that one
# of them is 1, or a multiple of 16, brings the kernels nothing, but Triton would compile them again when it changes.
VARYING = (
    *("n", "batch", "programs", "rows", "band_rows", "columns", "start", "blocks", "blocks_y", "blocks_x", "kept"),
    *("height", "width", "full_height", "full_width", "target_height", "target_width"),
    *(f"{of}_{axis}" for of in ("logits", "labels", "grad", "predicted", "target", "image", "full") for axis in "ncy"),
)


def check_edges(*edges: int) -> None:
    """Raise ValueError if an edge is longer than ``MAX_EDGE``: twice the product of two edges must fit in 32 bits."""
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

    The load is one-dimensional, so that neighbouring threads always read neighbours of the last axis. The compiler
    would lay out a load of several dimensions by what it knows of the addresses, and would shuffle the values at every
    use.
    """
    flat = tl.load(plane + tl.reshape(offsets, [offsets.numel]), tl.reshape(inside, [inside.numel]), 0)
    return tl.reshape(flat, offsets.shape)


@triton.jit
def scatter(plane, offsets, values, inside):
    """``plane[offsets] = values`` where ``inside``. The store is one-dimensional, as the load of :func:`gather` is."""
    n: tl.constexpr = offsets.numel
    tl.store(plane + tl.reshape(offsets, [n]), tl.reshape(values, [n]), tl.reshape(inside, [n]))


@triton.jit
def weight_at(pointers, exists):
    """Load weights of any dtype in float32, and 0 where ``exists`` is false."""
    return tl.load(pointers, exists, 0).to(tl.float32)
