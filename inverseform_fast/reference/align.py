"""align, plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .local_correlation import local_correlation

Correlation = Callable[[Tensor, Tensor, int, int], Tensor]

# These are the network's sizes. nets/align.py and the Triton kernels import them; a test compares csrc's with them.
CELL = 8  # edge of a cell in pixels
UNSHUFFLED = 4  # edge in pixels of the squares whose pixels become channels
FIRST, SECOND, FEATURES = 10, 24, 16  # channels that the features' three convolutions give
REACH, GROUPS = 3, 2  # of the correlation
OFFSETS = GROUPS * (2 * REACH + 1) ** 2  # channels of the correlation
HIDDEN, LAST, OUTPUTS = 26, 16, 5  # channels that the measurement's three convolutions give
NORM_GROUPS = 4
# Features are normalized to unit variance, because otherwise the correlation is all mean and training rests on a
# plateau. Features of a boundary have a variance of 0.05 to 0.2 before; EPS keeps fainter ones from being scaled up
# until they look like a boundary.
EPS = 0.01
CELLS_PER_UNIT = 3  # how many cells a displacement of one is
COEFFICIENTS = 8  # of a homography: the dimension of sl(3)

# Each is (outputs, inputs, edge of the kernel); those of the features come first, then those of the measurement.
CONVOLUTIONS = (
    (FIRST, UNSHUFFLED**2, 3), (SECOND, FIRST, 3), (FEATURES, SECOND, 1),
    (HIDDEN, OFFSETS + FEATURES, 1), (LAST, HIDDEN, 3), (OUTPUTS, LAST, 1),
)  # fmt: skip
FEATURE_WEIGHTS = 8  # how many of the weights are the features': kernels, biases, and the normalization's scale, shift


def weight_shapes(tile: int) -> list[tuple[int, ...]]:
    """Shapes of the weights, in the order of: the features' convolutions and normalization, the measurement's
    convolutions, the logarithm of the prior's precision, and each cell's velocity."""
    kernels = [shape for outputs, inputs, edge in CONVOLUTIONS for shape in ((outputs, inputs, edge, edge), (outputs,))]
    return [
        *kernels[:6],
        (FEATURES,),
        (FEATURES,),
        *kernels[6:],
        (COEFFICIENTS,),
        ((tile // CELL) ** 2, COEFFICIENTS, 2),
    ]


def align(predicted: Tensor, target: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """See :func:`inverseform_fast.functional.align`."""
    return align_with(local_correlation, predicted, target, weights)


def align_with(correlate: Correlation, predicted: Tensor, target: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Compute :func:`align` with ``correlate`` as the implementation of ``local_correlation``."""
    dtype = torch.float64 if predicted.dtype == torch.float64 else torch.float32
    *weights, prior, velocity = (weight.to(dtype) for weight in weights)
    feature_weights, measure_weights = weights[:FEATURE_WEIGHTS], weights[FEATURE_WEIGHTS:]
    first, second = (features(tiles.to(dtype), *feature_weights) for tiles in (predicted, target))
    # There are two calls, not one batch: a row's rounding may depend on its place in the batch, and identical tiles
    # must give exactly 0.
    outputs = (_measure(a, b, measure_weights, correlate) for a, b in ((first, second), (second, first)))
    (there, there_vector), (back, back_vector) = (equations(each, velocity, predicted.shape[-1]) for each in outputs)
    matrix = there + back + prior.exp().diag()
    factor, _ = torch.linalg.cholesky_ex(matrix)  # unlike cholesky, it does not wait for the GPU
    return torch.cholesky_solve((there_vector - back_vector)[..., None], factor)[..., 0]


def features(
    tiles: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """Features ``(N, 16, H / 8, W / 8)`` of the cells of tiles ``(N, 1, H, W)``, normalized per tile in four groups."""
    x = F.silu(F.conv2d(_bordered(F.pixel_unshuffle(tiles, UNSHUFFLED)), w1, b1))
    x = F.silu(F.conv2d(_bordered(x), w2, b2, stride=2))
    return F.group_norm(F.conv2d(x, w3, b3), NORM_GROUPS, scale, shift, EPS)


def _bordered(x: Tensor) -> Tensor:
    """Repeat the pixels of the border once around it: with zeros, the frame of a faint floor would count as lines.

    This concatenates, because the gradient of replicated padding has other strides than ``torch.compile`` expects
    (torch 2.11, channels_last).
    """
    x = torch.cat((x[..., :1, :], x, x[..., -1:, :]), 2)
    return torch.cat((x[..., :1], x, x[..., -1:]), 3)


def _measure(first: Tensor, second: Tensor, weights: Sequence[Tensor], correlate: Correlation) -> Tensor:
    """``(N, 5, cells)``: displacement x, y in units of three cells; xx, yx, yy of L in W = L L^T, before softplus."""
    w1, b1, w2, b2, w3, b3 = weights
    cells = torch.cat((correlate(first, second, REACH, GROUPS), first), 1)
    cells = F.silu(F.conv2d(F.silu(F.conv2d(cells, w1, b1)), w2, b2, padding=1))
    return F.conv2d(cells, w3, b3).flatten(2)


def equations(outputs: Tensor, velocity: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """``sum A^T W A (N, 8, 8)`` and ``sum A^T W d (N, 8)`` over the cells, which measured ``outputs (N, 5, cells)``."""
    dx, dy, xx, yx, yy = outputs.unbind(1)
    xx, yy = F.softplus(xx), F.softplus(yy)
    unit = CELLS_PER_UNIT * CELL / (tile / 2)  # in half tiles
    # These are the rows of L^T A and of L^T d: each cell measures two weighted combinations of x and y.
    x, y = velocity.unbind(-1)
    rows = torch.cat((xx[..., None] * x + yx[..., None] * y, yy[..., None] * y), 1)
    measured = torch.cat((xx * dx + yx * dy, yy * dy), 1) * unit
    return rows.mT @ rows, (rows.mT @ measured[..., None])[..., 0]
