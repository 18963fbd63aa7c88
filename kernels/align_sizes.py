"""The sizes of align's network as Triton's constants; all follow from those of its reference."""

from __future__ import annotations

import triton
import triton.language as tl

from ..reference.align import CELL, COEFFICIENTS, CONVOLUTIONS, GROUPS, NORM_GROUPS, OFFSETS, REACH, UNSHUFFLED


def _padded(channels: tl.constexpr) -> tl.constexpr:
    """Round up to what ``tl.dot`` takes: a power of two, at least 16."""
    return tl.constexpr(max(16, triton.next_power_of_2(channels.value)))


# The first convolution reads squares, whose pixels are its channels; the second moves by a cell's squares.
SQUARE, PIXELS = tl.constexpr(UNSHUFFLED), tl.constexpr(UNSHUFFLED**2)
CELL_SQUARES, SQUARES = tl.constexpr(CELL // UNSHUFFLED), tl.constexpr((CELL // UNSHUFFLED) ** 2)  # of a cell

# Channels that the convolutions give: three of the features, three of the measurement.
FIRST, SECOND, FEATURES, HIDDEN, LAST, OUTPUTS = (tl.constexpr(outputs) for outputs, _, _ in CONVOLUTIONS)
FIRST_PADDED, SECOND_PADDED, HIDDEN_PADDED = _padded(FIRST), _padded(SECOND), _padded(HIDDEN)
OUTPUTS_PADDED = tl.constexpr(triton.next_power_of_2(OUTPUTS.value))
NORM_GROUP = tl.constexpr(FEATURES.value // NORM_GROUPS)  # channels of a group of the normalization

CORRELATIONS = tl.constexpr(OFFSETS)  # channels of the correlation: a square of SPAN offsets for each group
SPAN = tl.constexpr(2 * REACH + 1)
SPAN_PADDED = tl.constexpr(triton.next_power_of_2(SPAN.value))
MATCH_GROUPS, MATCH_GROUP = tl.constexpr(GROUPS), tl.constexpr(FEATURES.value // GROUPS)  # of the correlation
CHANNELS = tl.constexpr(OFFSETS + FEATURES.value)  # channels that the measurement reads

K = tl.constexpr(COEFFICIENTS)  # coefficients of a homography
SUMS = tl.constexpr(COEFFICIENTS**2 + COEFFICIENTS)  # numbers that a program sums up: the matrix, then the vector
