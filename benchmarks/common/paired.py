"""What paired differences say: an exact test that supposes only symmetry, an interval, and many tests at once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import product

import numpy as np
from scipy.stats import t as student


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p of the exact sign-flip test: the share of all 2^n choices of signs whose mean is as far from 0.

    The least that it can be is 2 / 2^n, so that fewer than 6 pairs never give 0.05.

    Raises:
        ValueError: no differences.
    """
    if not differences:
        raise ValueError("differences must be at least one, got none")
    observed = abs(math.fsum(differences)) * (1 - 1e-9)  # sums of the same numbers in other orders are as far
    sums = (abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True))) for signs in _signs(differences))
    return statistics.mean(total >= observed for total in sums)


def _signs(differences: Sequence[float]) -> product[tuple[int, ...]]:
    return product((-1, 1), repeat=len(differences))


def t_interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean difference; it is infinite for a single pair."""
    mean, n = statistics.mean(differences), len(differences)
    if n == 1:
        return -math.inf, math.inf
    half = float(student.ppf((1 + level) / 2, n - 1)) * statistics.stdev(differences) / math.sqrt(n)
    return mean - half, mean + half


def block_interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of the mean difference, where each difference is that of a block of frames."""
    drawn = np.random.default_rng(0).choice(differences, (10_000, len(differences))).mean(1)
    low, high = np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of several tests' p, in the given order."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected
