"""register_labels: probabilities are smoothed, their information is added up over the classes, and a program of 4096
points climbs to the best motion of its tile.

The eight generators move a point (x, y) by polynomials, so the gradient of the objective is made of eight sums over
the points. A program holds its points in registers, from the first step to the last.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.register_labels import (
    BLOCKS,
    BOX,
    DAMPING,
    DEAD_ZONE,
    EASED,
    FLOOR,
    LEVELS,
    POINTS,
    PRIOR,
    RAISED,
)
from ..tiling import tiles
from .align_sizes import K
from .elementary import add_tuples, divide, log
from .homography_exp import UNIT, exponential
from .memory import VARYING, check_edges, plane_strides

BLOCK = 256  # cells of a program
WARPS = 8  # of a tile's program
# Of the method, as the compiler knows them.
SIDE, PARTS = tl.constexpr(POINTS), tl.constexpr(BLOCKS)  # points and parts of a tile, in each direction
WINDOW, LEAST, STRENGTH = tl.constexpr(BOX), tl.constexpr(FLOOR), tl.constexpr(PRIOR)
LOWER, HIGHER, ZONE = tl.constexpr(EASED), tl.constexpr(RAISED), tl.constexpr(DEAD_ZONE)
FIRST_DAMPING = tl.constexpr(DAMPING / EASED)  # the first place counts as a step that helped


def register_labels(
    probabilities: Tensor,  # [N, C, h, w]
    labels: Tensor,  # [N, H, W]
    ignore_index: int,
) -> Tensor:
    """``[N, rows, columns, 8]``: the coefficients of the tiles."""
    check_edges(*probabilities.shape[2:], *labels.shape[1:])
    probabilities = probabilities.contiguous()
    n = len(probabilities)
    a = probabilities.new_empty(n, *tiles(labels), 8, dtype=torch.float32)
    for level in range(len(LEVELS) if n else 0):
        climb(probabilities, labels, a, level, ignore_index)
    return a


def climb(probabilities: Tensor, labels: Tensor, a: Tensor, level: int, ignore_index: int) -> None:
    """Go from ``a`` to where the level's steps lead. The first level starts at 0, and the last drops what is noise."""
    (n, channels, height, width), (pooled, steps) = probabilities.shape, LEVELS[level]
    h, w = height // pooled, width // pooled
    logs, information = a.new_empty(2, n, channels, h, w), a.new_empty(n, 3, h, w)
    _smooth_cells[(triton.cdiv(n * channels * h * w, BLOCK),)](
        probabilities, logs, n * channels, height, width, h, w, POOLED=pooled, BLOCK=BLOCK
    )
    _information_of_cells[(triton.cdiv(n * h * w, BLOCK),)](logs[1], information, n, channels, h, w, BLOCK=BLOCK)
    arguments = (
        logs, information, labels, a, channels, h, w, *labels.shape[1:], *a.shape[1:3], ignore_index, labels.stride(0),
        *plane_strides(labels),
    )  # fmt: skip
    _register_tiles[(a.numel() // 8,)](*arguments, STEPS=steps, FIRST=level == 0, num_warps=WARPS)
    if level == len(LEVELS) - 1:
        _drop_noise[(a.numel() // 8,)](*arguments, num_warps=WARPS)


@triton.jit(do_not_specialize=VARYING)
def _smooth_cells(
    probabilities,  # [n, full_height, full_width]
    logs,  # [2, n, height, width]: logarithms, and roots
    n, full_height, full_width, height, width,
    POOLED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Average over boxes of cells, without what lies outside the map."""
    cell = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    cells = n.to(tl.int64) * height * width
    inside = cell < cells
    plane, place = cell // (height * width), (cell % (height * width)).to(tl.int32)
    y, x = place // width * POOLED - POOLED, place % width * POOLED - POOLED
    probabilities += plane * full_height * full_width
    total = tl.zeros([BLOCK], tl.float32)
    for i in tl.static_range(WINDOW * POOLED):
        for j in tl.static_range(WINDOW * POOLED):
            hit = inside & (y + i >= 0) & (y + i < full_height) & (x + j >= 0) & (x + j < full_width)
            total += tl.load(probabilities + (y + i) * full_width + (x + j), hit, 0)
    count_y = tl.minimum(y + WINDOW * POOLED, full_height) - tl.maximum(y, 0)
    count_x = tl.minimum(x + WINDOW * POOLED, full_width) - tl.maximum(x, 0)
    smooth = total / (count_y * count_x) + LEAST
    tl.store(logs + cell, log(smooth), inside)
    tl.store(logs + cells + cell, tl.sqrt(smooth), inside)


@triton.jit(do_not_specialize=VARYING)
def _information_of_cells(
    roots,  # [N, C, height, width]
    information,  # [N, 3, height, width]: xx, xy, yy
    n, channels, height, width, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up over the classes what the differences of the roots tell, each over two cells."""
    cell = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = cell < n.to(tl.int64) * height * width
    image, place = cell // (height * width), (cell % (height * width)).to(tl.int32)
    y, x = place // width, place % width
    left, right = place - tl.where(x > 0, 1, 0), place + tl.where(x < width - 1, 1, 0)
    above, below = place - tl.where(y > 0, width, 0), place + tl.where(y < height - 1, width, 0)
    roots += image * channels * height * width
    xx, xy, yy = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for _ in range(channels):
        dx = tl.load(roots + right, inside, 0) - tl.load(roots + left, inside, 0)
        dy = tl.load(roots + below, inside, 0) - tl.load(roots + above, inside, 0)
        xx, xy, yy = xx + dx * dx, xy + dx * dy, yy + dy * dy
        roots += height * width
    information += image * 3 * height * width + place
    tl.store(information, xx, inside)
    tl.store(information + height * width, xy, inside)
    tl.store(information + 2 * height * width, yy, inside)


@triton.jit(do_not_specialize=VARYING)
def _register_tiles(
    logs,  # [N, C, height, width]
    information,  # [N, 3, height, width]
    labels,  # [N, full_height, full_width]
    a,  # [N, rows, columns, 8]
    channels, height, width, full_height, full_width, rows, columns, ignore_index,
    labels_n, labels_y, labels_x, STEPS: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Climb by Levenberg and Marquardt's method, from 0 or from ``a``."""
    tile = tl.program_id(0)
    points = _labeled_points(
        labels, channels, full_height, full_width, rows, columns, ignore_index, labels_n, labels_y, labels_x
    )
    places = _places(height, width, rows, columns)
    image = (tile // (rows * columns)).to(tl.int64)
    logs += image * channels * height * width
    matrix = _curvature(information + image * 3 * height * width, points, places, height, width)
    trial = ()
    for k in tl.static_range(8):
        trial += ((tl.cast(0.0, tl.float32) if FIRST else tl.load(a + tile * 8 + k)),)
    best, gradient = trial, trial
    value, damping = tl.cast(-float("inf"), tl.float32), tl.cast(FIRST_DAMPING, tl.float32)
    for _ in range(STEPS + 1):
        new_value, slope_x, slope_y = _objective(trial, logs, points, places, height, width)
        better = new_value > value
        value = tl.where(better, new_value, value)
        damping = tl.where(better, damping * LOWER, damping * HIGHER)
        gradient = _chosen(better, _gradient(slope_x, slope_y, points, trial), gradient)
        best = _chosen(better, trial, best)
        trial = add_tuples(best, _solve(_with_prior(matrix, damping), gradient))
    for k in tl.static_range(8):
        tl.store(a + tile * 8 + k, best[k])


@triton.jit(do_not_specialize=VARYING)
def _drop_noise(
    logs,  # [N, C, height, width]
    information,  # [N, 3, height, width]
    labels,  # [N, full_height, full_width]
    a,  # [N, rows, columns, 8]
    channels, height, width, full_height, full_width, rows, columns, ignore_index,
    labels_n, labels_y, labels_x,
):  # fmt: skip
    """Make readings 0 that may well be noise. With the climb in one kernel, it would spill registers."""
    tile = tl.program_id(0)
    points = _labeled_points(
        labels, channels, full_height, full_width, rows, columns, ignore_index, labels_n, labels_y, labels_x
    )
    places = _places(height, width, rows, columns)
    image = (tile // (rows * columns)).to(tl.int64)
    matrix = _curvature(information + image * 3 * height * width, points, places, height, width)
    found, noise, length = (), 0.0, 0.0
    for k in tl.static_range(8):
        found += (tl.load(a + tile * 8 + k),)
    logs += image * channels * height * width
    _, slope_x, slope_y = _objective(found, logs, points, places, height, width)
    errors = _solve(_with_prior(matrix, 1.0), _deviations(slope_x, slope_y, points))
    for k in tl.static_range(8):
        noise, length = noise + tl.sum(errors[k] * errors[k]), length + found[k] * found[k]
    for k in tl.static_range(8):
        tl.store(a + tile * 8 + k, tl.where(length > ZONE * noise, found[k], 0.0))


@triton.jit
def _labeled_points(
    labels, channels, full_height, full_width, rows, columns, ignore_index, labels_n, labels_y, labels_x
):
    """Coordinates and labels of a tile's points, and the weight of each; a label that is no class is -1.

    The points are sorted by block, ``[PARTS, PARTS, points]``, so that a block's sum is one of neighbors.
    """
    tile = tl.program_id(0)
    image, row, column = (tile // (rows * columns)).to(tl.int64), tile // columns % rows, tile % columns
    part: tl.constexpr = SIDE // PARTS
    point = tl.arange(0, SIDE * SIDE)
    block, within = point // (part * part), point % (part * part)
    i, j = block // PARTS * part + within // part, block % PARTS * part + within % part
    pixel_y = ((row * SIDE + 2 * i + 1) * full_height // (SIDE * (rows + 1))).to(tl.int32)
    pixel_x = ((column * SIDE + 2 * j + 1) * full_width // (SIDE * (columns + 1))).to(tl.int32)
    label = tl.load(labels + image * labels_n + pixel_y * labels_y + pixel_x * labels_x).to(tl.int64)
    valid = (label != ignore_index) & (label >= 0) & (label < channels)
    label = tl.where(valid, label, -1).to(tl.int32)
    several = tl.min(tl.where(valid, label, channels)) < tl.max(label)
    weight = 1.0 / tl.maximum(tl.sum(valid.to(tl.float32)), 1.0)
    weight = tl.where(several, weight, 0.0)  # nothing moves a tile of one class
    return (2 * j + 1).to(tl.float32) / SIDE - 1, (2 * i + 1).to(tl.float32) / SIDE - 1, label, weight


@triton.jit
def _places(height, width, rows, columns):
    """From the tile's coordinates to cells: the scales along x and y, and the place of the tile's middle."""
    row, column = tl.program_id(0) // columns % rows, tl.program_id(0) % columns
    scale_x, scale_y = width.to(tl.float32) / (columns + 1), height.to(tl.float32) / (rows + 1)
    return scale_x, scale_y, (column + 1) * scale_x - 0.5, (row + 1) * scale_y - 0.5


@triton.jit
def _corner(x, y, height, width):
    """The cell above and to the left of a place, the shares of its neighbors, and the offsets at which they lie."""
    x = tl.minimum(tl.where(x > 0, x, 0.0), (width - 1).to(tl.float32))  # a place that is none (NaN) becomes 0
    y = tl.minimum(tl.where(y > 0, y, 0.0), (height - 1).to(tl.float32))
    left, top = (
        tl.minimum(x.to(tl.int32), tl.maximum(width - 2, 0)),
        tl.minimum(y.to(tl.int32), tl.maximum(height - 2, 0)),
    )
    right, below = tl.where(width > 1, 1, 0), tl.where(height > 1, width, 0)
    return top * width + left, x - left, y - top, right, below


@triton.jit
def _between(corner, u, v, right, below):
    """The value between four cells, and how it changes along x and y."""
    upper_left, upper_right = tl.load(corner), tl.load(corner + right)
    lower_left, lower_right = tl.load(corner + below), tl.load(corner + right + below)
    upper, lower = upper_left + u * (upper_right - upper_left), lower_left + u * (lower_right - lower_left)
    across = (upper_right - upper_left) * (1 - v) + (lower_right - lower_left) * v
    return upper + v * (lower - upper), across, lower - upper


@triton.jit
def _objective(a, logs, points, places, height, width):
    """The objective, and what the motion of each point along x and y adds to it."""
    x, y, label, share = points
    scale_x, scale_y, middle_x, middle_y = places
    opposite = ()
    for k in tl.static_range(8):
        opposite += (-a[k],)
    theta = exponential(opposite)
    depth = theta[6] * x + theta[7] * y + theta[8]
    moved_x = divide(theta[0] * x + theta[1] * y + theta[2], depth) * scale_x + middle_x
    moved_y = divide(theta[3] * x + theta[4] * y + theta[5], depth) * scale_y + middle_y
    corner, u, v, right, below = _corner(moved_x, moved_y, height, width)
    place = logs + (tl.maximum(label, 0) * (height * width) + corner)
    values, across, down = _between(place, u, v, right, below)
    weight = tl.where(label >= 0, share, 0.0)
    length = 0.0
    for k in tl.static_range(8):
        length += a[k] * a[k]
    return tl.sum(weight * values) - STRENGTH * length, -weight * scale_x * across, -weight * scale_y * down


@triton.jit
def _velocity(x, y):
    """How fast each generator of :func:`inverseform_fast.sl3.basis` moves the points, along x and along y."""
    return (
        (1.0, 0.0, -UNIT * y, UNIT * x, UNIT * x, UNIT * y, -UNIT * x * x, -UNIT * x * y),
        (0.0, 1.0, UNIT * x, UNIT * y, -UNIT * y, UNIT * x, -UNIT * x * y, -UNIT * y * y),
    )


@triton.jit
def _gradient(slope_x, slope_y, points, a):
    along, result = _velocity(points[0], points[1]), ()
    for k in tl.static_range(8):
        result += (tl.sum(slope_x * along[0][k] + slope_y * along[1][k]) - 2 * STRENGTH * a[k],)
    return result


@triton.jit
def _curvature(information, points, places, height, width):
    """The lower half of the Fisher information of the coefficients, row by row."""
    x, y, label, share = points
    scale_x, scale_y, middle_x, middle_y = places
    corner, u, v, right, below = _corner(x * scale_x + middle_x, y * scale_y + middle_y, height, width)
    weight, plane = tl.where(label >= 0, share, 0.0), height * width
    xx = weight * scale_x * scale_x * _between(information + corner, u, v, right, below)[0]
    xy = weight * scale_x * scale_y * _between(information + plane + corner, u, v, right, below)[0]
    yy = weight * scale_y * scale_y * _between(information + 2 * plane + corner, u, v, right, below)[0]
    along, result = _velocity(x, y), ()
    for i in tl.static_range(8):
        by_x, by_y = xx * along[0][i] + xy * along[1][i], xy * along[0][i] + yy * along[1][i]
        for j in tl.static_range(i + 1):
            result += (tl.sum(by_x * along[0][j] + by_y * along[1][j]),)
    return result


@triton.jit
def _with_prior(matrix, damping):
    result = ()
    for i in tl.static_range(8):
        for j in tl.static_range(i + 1):
            result += (damping * matrix[i * (i + 1) // 2 + j] + (2 * STRENGTH if i == j else 0.0),)
    return result


@triton.jit
def _deviations(slope_x, slope_y, points):
    """The gradient of each block, less the mean of the blocks."""
    along, result = _velocity(points[0], points[1]), ()
    blocks: tl.constexpr = PARTS * PARTS
    for k in tl.static_range(8):
        parts = tl.sum(tl.reshape(slope_x * along[0][k] + slope_y * along[1][k], [blocks, SIDE * SIDE // blocks]), 1)
        result += (parts - tl.sum(parts) / blocks,)
    return result


@triton.jit
def _chosen(first_is_better, first, second):
    result = ()
    for k in tl.static_range(8):
        result += (tl.where(first_is_better, first[k], second[k]),)
    return result


@triton.jit
def _solve(entries, vector):
    """Solve the symmetric equations by ``L D L^T``. The opposite vector gives exactly the opposite solution."""
    factor, scaled, pivots = (), (), ()  # L, L D, and the reciprocals of D
    for i in tl.static_range(K):
        for j in tl.static_range(i + 1):
            entry = entries[_place(i, j)]
            for k in tl.static_range(j):
                entry -= scaled[_place(i, k)] * factor[_place(j, k)]
            if i == j:
                pivots += (tl.div_rn(1.0, entry),)
            scaled += (entry,)
            factor += (entry * pivots[j],)
    halfway = ()
    for i in tl.static_range(K):
        value = vector[i]
        for k in tl.static_range(i):
            value -= scaled[_place(i, k)] * halfway[k]
        halfway += (value * pivots[i],)
    solution = ()  # from the last coefficient to the first
    for back in tl.static_range(K):
        value = halfway[K - 1 - back]
        for k in tl.static_range(back):  # The coefficient K - 1 - k is known.
            value -= factor[_place(K - 1 - k, K - 1 - back)] * solution[k]
        solution += (value,)
    ordered = ()
    for i in tl.static_range(K):
        ordered += (solution[K - 1 - i],)
    return ordered


@triton.constexpr_function
def _place(i, j):
    """Where the entry (i, j) of a symmetric matrix is in its lower half, row by row."""
    return i * (i + 1) // 2 + j
