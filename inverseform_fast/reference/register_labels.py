"""register_labels, plain PyTorch: by which motion of its tile does the prediction find the labels most likely?

This is maximum a posteriori estimation by the Levenberg-Marquardt method. The objective of a homography ``exp(a)``, at
which labels are read, is the mean of ``log(p_y + FLOOR)`` over points of the tile, less ``PRIOR |a|^2``; ``p_y`` is the
predicted probability of the point's label at the place to which the label goes. Probabilities are averaged over some
cells first, since a prediction that is sure of itself has no slopes that show the way.

The curvature is the prediction's own Fisher information, ``4 sum_c grad sqrt(p_c) grad sqrt(p_c)^T``. The error of the
estimate is White's sandwich (1980): the inverse curvature, the spread of the objective's slope over blocks of the tile,
and the inverse curvature again. So each reading brings its own noise, and no exact label is needed to know it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..constants import constant
from ..sl3 import basis
from ..tiling import tiles, tiles_to_image
from .homography_exp import homography_exp

POINTS, BLOCKS = 64, 8  # of a tile, in each direction: points at which labels are compared, and parts that err alone
LEVELS = ((2, 4), (1, 6))  # so many cells are pooled in each direction, for so many steps
BOX = 3  # cells, in each direction, over which probabilities are averaged
FLOOR, PRIOR = 0.05, 1.0
DAMPING, EASED, RAISED = 0.5, 0.6, 2.5  # of the curvature: at first, after a step that helps, after one that fails
DEAD_ZONE = 3.0  # times the noise, which |a|^2 must exceed; with exact labels, one tile in five did
_CELLS = 56  # of a tile's probabilities, in each direction


@torch.no_grad()
def register_labels(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """See :func:`inverseform_fast.functional.register_labels`."""
    classes, shape = logits.shape[1], tiles(labels)
    probabilities = cell_probabilities(logits, shape)
    to_image = constant(tiles_to_image, probabilities.dtype, logits.device, *shape)
    ids, valid, known = _classes(labels, shape, classes, ignore_index)
    weights = valid.to(probabilities.dtype) / valid.sum(2, keepdim=True).clamp(min=1)
    a = probabilities.new_zeros(len(logits), len(to_image), 8)
    for pooled, steps in LEVELS:
        smooth = F.avg_pool2d(probabilities, BOX * pooled, pooled, (BOX - 1) * pooled // 2, count_include_pad=False)
        fit = Fit(smooth + FLOOR, ids, weights, to_image)
        a, slopes = fit.ascend(a, steps)
    known = known & (a.square().sum(2) > DEAD_ZONE * fit.noise(slopes))
    return torch.where(known[..., None], a, 0).view(-1, *shape, 8)


def cell_probabilities(logits: Tensor, shape: tuple[int, int]) -> Tensor:
    """The probabilities at about a tile's resolution, of even height and width, which pooling in pairs asks for."""
    probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)
    size = probabilities.shape[2:]
    wanted = [_CELLS * (count + 1) // 2 for count in shape]
    cells = [edge if edge <= 1.5 * least else least for edge, least in zip(size, wanted, strict=True)]
    cells = [edge + edge % 2 for edge in cells]
    return probabilities if cells == [*size] else F.interpolate(probabilities, cells, mode="area")


def _points(dtype: torch.dtype, device: torch.device) -> Tensor:
    """``(3, P)``: where a tile's labels are compared, (x, y, 1) in its coordinates, row by row."""
    along = (torch.arange(POINTS) + 0.5) * 2 / POINTS - 1
    y, x = torch.cartesian_prod(along, along).unbind(1)
    return torch.stack((x, y, torch.ones_like(x))).to(device, dtype)


def _velocities(dtype: torch.dtype, device: torch.device) -> Tensor:
    """``(2 P, 8)``: how fast each generator moves the points, along x for all and then along y."""
    points = _points(torch.float64, torch.device("cpu"))
    moved = basis(torch.float64) @ points  # (8, 3, P)
    return (moved[:, :2] - points[:2] * moved[:, 2:]).permute(1, 2, 0).flatten(0, 1).to(device, dtype)


def _products(dtype: torch.dtype, device: torch.device) -> Tensor:
    """``(3 P, 64)``: what takes xx, xy and yy of points' curvatures to that of the coefficients."""
    x, y = (velocity[:, :, None] for velocity in _velocities(dtype, device).chunk(2))
    return torch.cat((x * x.mT, x * y.mT + y * x.mT, y * y.mT)).flatten(1)


def _moved(theta: Tensor) -> tuple[Tensor, Tensor]:
    """x and y ``(..., P)`` of the points after homographies ``(..., 3, 3)``."""
    x, y, z = (theta @ constant(_points, theta.dtype, theta.device)).unbind(-2)
    return x / z, y / z


def _classes(labels: Tensor, shape: tuple[int, int], classes: int, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids ``(N, T, P)`` of the labels at the points, which are classes, and which tiles ``(N, T)`` have two of them."""
    y, x = (_pixels(edge, count, labels.device) for edge, count in zip(labels.shape[1:], shape, strict=True))
    read = labels[:, y[:, None, :, None], x[None, :, None, :]].long()  # (N, rows, columns, points, points)
    ids = read.flatten(3).flatten(1, 2)
    valid = (ids != ignore_index) & (ids >= 0) & (ids < classes)
    several = ids.where(valid, classes).amin(2) < ids.where(valid, -1).amax(2)
    return ids.where(valid, 0), valid, several


def _pixels(edge: int, count: int, device: torch.device) -> Tensor:
    """``(count, POINTS)``: the pixels on which the points of so many tiles lie, along an edge; in whole numbers, since
    points often lie just between two pixels."""
    half_points = torch.arange(count, device=device)[:, None] * POINTS + torch.arange(POINTS, device=device) * 2 + 1
    return half_points * edge // (POINTS * (count + 1))


class Fit:
    """The objective of all tiles, with probabilities ``(N, C, h, w)`` that nowhere are 0."""

    def __init__(self, probabilities: Tensor, ids: Tensor, weights: Tensor, to_image: Tensor) -> None:
        self.height, self.width = probabilities.shape[2:]
        self.logs = probabilities.log().flatten(1)
        self.first = ids * (self.height * self.width)  # cell of the point's class
        self.weights = weights
        self.to_image = to_image
        # Cells for a unit of the tile's coordinates, (T, 1) for x and y.
        self.per_unit = [to_image[:, i, i, None] * edge / 2 for i, edge in enumerate((self.width, self.height))]
        self.curvature = self._curvature(probabilities.sqrt())

    def ascend(self, a: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """The coefficients ``(N, T, 8)`` after so many steps, and the slopes at the points, ``(N, T, 2 P)``."""
        velocities = constant(_velocities, a.dtype, a.device)
        damping = torch.full_like(a[..., :1, None], DAMPING)
        value, slopes = self.at(a)
        for _ in range(steps):
            gradient = slopes @ velocities - 2 * PRIOR * a
            step = _solve(damping * self.curvature, gradient[..., None])[..., 0]
            new_value, new_slopes = self.at(a + step)
            better = (new_value > value)[..., None]
            a, slopes = torch.where(better, a + step, a), torch.where(better, new_slopes, slopes)
            value = torch.maximum(new_value, value)
            damping = torch.where(better[..., None], damping * EASED, damping * RAISED)
        return a, slopes

    def at(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """The objective ``(N, T)``, and its slopes at the points, ``(N, T, 2 P)``."""
        x, y = _moved(self.to_image @ homography_exp(-a))
        x = _clamped((x + 1) * (self.width / 2) - 0.5, self.width)
        y = _clamped((y + 1) * (self.height / 2) - 0.5, self.height)
        left, top = x.long().clamp(max=max(0, self.width - 2)), y.long().clamp(max=max(0, self.height - 2))
        right, below = int(self.width > 1), self.width * int(self.height > 1)
        corner = self.first + top * self.width + left
        x, y = x - left, y - top
        upper_left, upper_right, lower_left, lower_right = (
            self.logs.gather(1, (corner + offset).flatten(1)).view_as(x) for offset in (0, right, below, right + below)
        )
        upper, lower = upper_left.lerp(upper_right, x), lower_left.lerp(lower_right, x)
        across = (upper_right - upper_left).lerp(lower_right - lower_left, y)
        by_x, by_y = (-self.weights * scale for scale in self.per_unit)
        slopes = torch.cat((by_x * across, by_y * (lower - upper)), 2)
        value = (self.weights * upper.lerp(lower, y)).sum(2) - PRIOR * a.square().sum(2)
        return value, slopes

    def _curvature(self, roots: Tensor) -> Tensor:
        """The Fisher information ``(N, T, 8, 8)`` by the roots of probabilities ``(N, C, h, w)``."""
        padded = F.pad(roots, (1, 1, 1, 1), mode="replicate")
        x, y = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2], padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
        maps = torch.stack(((x * x).sum(1), (x * y).sum(1), (y * y).sum(1)), 1)  # 4 times the square of half of them
        places = torch.stack(_moved(self.to_image), -1).expand(len(maps), -1, -1, -1)
        xx, xy, yy = F.grid_sample(maps, places, padding_mode="border", align_corners=False).unbind(1)
        (by_x, by_y), w = self.per_unit, self.weights
        points = torch.cat((w * xx * by_x * by_x, w * xy * by_x * by_y, w * yy * by_y * by_y), 2)
        return (points @ constant(_products, points.dtype, points.device)).unflatten(2, (8, 8))

    def noise(self, slopes: Tensor) -> Tensor:
        """The expected ``|error|^2 (N, T)`` by the slopes at the points, ``(N, T, 2 P)``."""
        velocities = _by_block(constant(_velocities, slopes.dtype, slopes.device).T)
        parts = torch.einsum("ntbp,kbp->ntkb", _by_block(slopes), velocities)
        return _solve(self.curvature, parts - parts.mean(3, keepdim=True)).square().sum((2, 3))


def _clamped(place: Tensor, cells: int) -> Tensor:
    """A place in [0, cells - 1], also where a step was so wide that it is none (NaN)."""
    return torch.where(place > 0, place, 0).clamp(max=cells - 1)


def _by_block(values: Tensor) -> Tensor:
    """Values ``(..., 2 P)`` of the points, sorted by block: ``(..., blocks, 2 P / blocks)``."""
    side = POINTS // BLOCKS
    parts = values.unflatten(-1, (2, BLOCKS, side, BLOCKS, side)).movedim((-4, -2), (-5, -4))
    return parts.flatten(-5, -4).flatten(-3)


def _solve(curvature: Tensor, right: Tensor) -> Tensor:
    """Divides ``(..., 8, k)`` by a curvature ``(..., 8, 8)`` and that of the prior; it does not wait for a GPU."""
    prior = 2 * PRIOR * torch.eye(8, dtype=right.dtype, device=right.device)
    solution: Tensor = torch.linalg.solve_ex(curvature + prior, right)[0]
    return solution
