"""benchmarks/common/paired.py, against SciPy and cases that can be counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.common.paired import holm, sign_flip_p, t_interval

SOME = [0.3, -0.1, 0.7, 0.45, 0.2, 0.6]


def test_sign_flips_by_hand() -> None:
    assert sign_flip_p([1.0]) == 1
    assert sign_flip_p([1, 2, 3]) == 2 / 8  # only +++ and ---
    assert sign_flip_p([-1, 2, 3]) == 4 / 8  # and those two with the first sign turned
    assert sign_flip_p([0.1] * 12) == 2 / 2**12
    assert sign_flip_p([0.0, 0.0]) == 1
    with pytest.raises(ValueError, match="differences must be at least one, got none"):
        sign_flip_p([])


def test_sign_flips_are_those_of_scipy() -> None:
    expected = stats.permutation_test((SOME,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(SOME) == pytest.approx(expected.pvalue)
    assert sign_flip_p([-x for x in SOME]) == sign_flip_p(SOME)


def test_interval_is_that_of_scipy() -> None:
    expected = stats.ttest_1samp(SOME, 0).confidence_interval(0.9)
    assert t_interval(SOME, 0.9) == pytest.approx((expected.low, expected.high))
    assert t_interval([0.5]) == (-math.inf, math.inf)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
