"""The metric of edges: the F-score of thinned edges at the threshold that is the best one for the whole data set."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from ...checks import check_choice
from .boundary import dilate
from .checks import check_binary

Matching = Literal["one-to-one", "dilation"]
THRESHOLDS = tuple(percent / 100 for percent in range(1, 100))
TOLERANCE = 0.0075  # as a share of the image's diagonal, as SEISM has for PASCAL Context
_BITS = 63  # thresholds that one int64 holds
_BAND = 48  # rows of an image that are thinned at a time, so that they stay in the processor's cache


def thin(planes: Tensor) -> Tensor:
    """Thins bitmaps to lines of one pixel, as MATLAB's ``bwmorph(image, "thin", inf)`` does (Lam, Lee and Suen 1992).

    Args:
        planes: (..., H, W) of any integer type or bool. Each bit is a bitmap of its own, so an int64 holds 63 of them.

    Returns:
        A tensor like ``planes``.
    """
    while True:
        before = planes
        for direction in (1, -1):
            planes = planes & ~_removable(planes, direction)
        if torch.equal(planes, before):
            return planes


def _removable(planes: Tensor, direction: int) -> Tensor:
    """Finds what a sub-iteration removes: pixels at the east and north if ``direction`` is 1, else west and south."""
    framed = torch.nn.functional.pad(planes, (1, 1, 1, 1))
    tops = range(0, planes.shape[-2], _BAND)
    return torch.cat([_removable_inside(framed[..., top : top + _BAND + 2, :], direction) for top in tops], -2)


def _removable_inside(planes: Tensor, direction: int) -> Tensor:
    """Finds them within a frame of one pixel."""
    height, width = (side - 2 for side in planes.shape[-2:])
    # Counter-clockwise from the east; the second sub-iteration sees the image turned by 180 degrees.
    offsets = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
    places = [(1 + direction * down, 1 + direction * right) for down, right in offsets]
    x = [planes[..., top : top + height, left : left + width] for top, left in places]
    even, odd = ([x[i] | x[(i + 1) % 8] for i in range(start, 8, 2)] for start in (0, 1))
    starts = [~x[i] & pair for i, pair in zip(range(0, 8, 2), odd, strict=True)]  # of runs of neighbours
    is_border = _any(starts) & ~_two(starts)
    is_no_end = _two(even) & _two(odd)
    is_no_inside = ~(_all(even) & _all(odd))
    return is_border & is_no_end & is_no_inside & ~((odd[0] | ~x[7]) & x[0])


def _any(bits: list[Tensor]) -> Tensor:
    return bits[0] | bits[1] | bits[2] | bits[3]


def _all(bits: list[Tensor]) -> Tensor:
    return bits[0] & bits[1] & bits[2] & bits[3]


def _two(bits: list[Tensor]) -> Tensor:
    """Marks where at least two of four bits are set."""
    a, b, c, d = bits
    return (a & b) | (c & d) | ((a | b) & (c | d))


def matched_pixels(predicted: np.ndarray, true: np.ndarray, squared_tolerance: int) -> int:
    """Counts the pairs of the largest one-to-one matching of predicted with true pixels (H, W) bool.

    The pixels of a pair lie at most ``sqrt(squared_tolerance)`` pixels apart. Berkeley's ``correspondPixels`` finds an
    assignment of minimum cost, in which an unmatched pixel costs 100 tolerances: this has as many pairs.

    Raises:
        ModuleNotFoundError: SciPy is not installed.
    """
    from scipy.sparse import csr_array  # no other metric needs SciPy
    from scipy.sparse.csgraph import maximum_bipartite_matching

    reach = math.isqrt(squared_tolerance)
    number = np.full(np.add(true.shape, 2 * reach), -1, np.int32)  # of each true pixel, in a frame of none
    number[reach : reach + true.shape[0], reach : reach + true.shape[1]][true] = np.arange(true.sum())
    down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = down**2 + right**2 <= squared_tolerance
    row, column = np.nonzero(predicted)
    near = number[row[:, None] + reach + down[disk], column[:, None] + reach + right[disk]]
    found = near >= 0
    ends = np.concatenate(([0], found.sum(1).cumsum()))
    graph = csr_array((np.ones(ends[-1], np.int8), near[found], ends), shape=(len(row), int(true.sum())))
    return int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())


class EdgeMetrics(Metric):
    """Accumulates matched edge pixels of a data set at 99 thresholds, 0.01 to 0.99.

    At each threshold, the predicted pixels (probability at least the threshold) and the true ones are thinned.
    Precision P is the share of the predicted ones that match, recall R that of the true ones, both over all images.
    Pixels match within 0.0075 of the image's diagonal. ``compute`` returns the highest ``2PR / (P + R)`` over the
    thresholds, NaN if no edge is true:

    - ``odsf``, if the matching is one to one, as in SEISM's measure ``fb`` and Berkeley's benchmark. No probability is
      rounded to 8 bits.
    - ``odsf_bound``, if any pixel of the other side matches, however often: an upper bound of ``odsf`` by dilation,
      which takes less time.

    Args:
        void: value of a target pixel without a truth, where nothing is predicted or true.
        matching: "one-to-one", which needs SciPy, or "dilation".

    Raises:
        ValueError: ``matching`` is neither.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, void: float = 255, matching: Matching = "one-to-one") -> None:
        super().__init__(compute_with_cache=False)  # torchmetrics' cache would outlive a merge
        check_choice(matching, "matching", get_args(Matching))
        self.void, self.matching = void, matching
        counts = torch.zeros(4, len(THRESHOLDS), dtype=torch.int64)  # predicted, of them matched; true, of them matched
        self.add_state("counts", counts, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch.

        Args:
            prediction: (N, H, W) probabilities.
            target: (N, H, W) of 0, 1 (edge) and ``void``.

        Raises:
            TypeError: the prediction holds no floats.
            ValueError: a shape is wrong, or a value is none of these.
            ModuleNotFoundError: the matching is one to one, and SciPy is not installed.
        """
        check_binary(prediction, target, self.void)
        squared_tolerance = math.floor(TOLERANCE**2 * sum(side**2 for side in target.shape[-2:]) + 1e-9)
        count = self._one_to_one if self.matching == "one-to-one" else self._by_dilation
        for probability, truth in zip(prediction, target, strict=True):
            predicted = _unpacked(thin(_packed(probability.masked_fill(truth == self.void, -1))))
            self.counts += count(predicted, thin(truth == 1), squared_tolerance).to(self.device)

    def compute(self) -> dict[str, float]:
        """Returns the metric of all batches so far, by the name that the class lists."""
        predicted, right, true, found = self.counts.cpu().double()
        precision, recall = right / predicted.clamp(min=1), found / true  # 0/0 = NaN
        f = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
        return {"odsf" if self.matching == "one-to-one" else "odsf_bound": float(f.max())}

    @staticmethod
    def _one_to_one(predicted: Tensor, true: Tensor, squared_tolerance: int) -> Tensor:
        truth = true.cpu().numpy()
        pairs = torch.tensor([matched_pixels(p, truth, squared_tolerance) for p in predicted.cpu().numpy()])
        return _counts(predicted, pairs, true, pairs)

    @staticmethod
    def _by_dilation(predicted: Tensor, true: Tensor, squared_tolerance: int) -> Tensor:
        reach = math.isqrt(squared_tolerance)
        disk = [math.isqrt(squared_tolerance - down**2) for down in range(-reach, reach + 1)]
        right = predicted & dilate(true, disk, torch.bitwise_or)
        found = true & dilate(predicted, disk, torch.bitwise_or)
        return _counts(predicted, right.sum((1, 2)), true, found.sum((1, 2)))


def _counts(predicted: Tensor, right: Tensor, true: Tensor, found: Tensor) -> Tensor:
    sizes = predicted.sum((1, 2)), true.sum().expand(len(THRESHOLDS))
    return torch.stack((sizes[0].cpu(), right.cpu(), sizes[1].cpu(), found.cpu()))


def _packed(probability: Tensor) -> Tensor:
    """Returns where a map (H, W) is at least each threshold, as bits of (2, H, W) int64."""
    thresholds = probability.new_tensor(THRESHOLDS)[:, None, None]
    planes = []
    for part in thresholds.split(_BITS):
        bits = torch.arange(len(part), device=probability.device)[:, None, None]
        planes.append(((probability >= part).long() << bits).sum(0))
    return torch.stack(planes)


def _unpacked(planes: Tensor) -> Tensor:
    """Returns the bitmaps (99, H, W) bool of the thresholds."""
    place = torch.arange(len(THRESHOLDS), device=planes.device)
    return (planes[place // _BITS] >> (place % _BITS)[:, None, None] & 1).bool()
