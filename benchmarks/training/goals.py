"""The measurements show how the loss scales, and whether it reaches its goals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.common.results import Json
from benchmarks.training.plan import plan_of


class Goal(NamedTuple):
    """A ratio: what it compares, how large it may be, and how large it was found; None if it was not measured."""

    text: str
    asked: float
    found: float | None

    @property
    def met(self) -> bool:
        return self.found is not None and self.found <= self.asked


def fitted(x: Sequence[float], ms: Sequence[float]) -> dict[str, float]:
    """Fit ``ms = fixed + slope x`` by least squares; return also the share of the variance that it explains."""
    slope, fixed = np.polyfit(x, ms, 1)
    residual = np.asarray(ms) - (fixed + slope * np.asarray(x))
    explained = 1 - float(residual @ residual) / max(float(np.var(ms)) * len(ms), 1e-30)
    return {"fixed_ms": float(fixed), "ms_per_unit": float(slope), "r2": explained}


def goals(result: Json) -> list[Goal]:
    if result["machine"]["bandwidth_bytes_per_s"] is None:
        return _against_the_release(result, "512 x 1024", 1 / 5, ("reference", "compiled", "fused"))
    return _against_stock(result) + _against_the_release(result, "hrnet_w18", 1 / 20, ("fused",))


def _against_stock(result: Json) -> list[Goal]:
    name, settings = "hrnet_w18", plan_of(True).settings
    steps = [_ratio(result, setting, "steps", "ms", "fused", "stock") for setting in settings]
    slowest = None if None in steps else max(step for step in steps if step is not None)
    return [
        Goal(
            "time of the fused loss, as a share of stock cross-entropy's",
            0.5,
            _ratio(result, name, "losses", "ms", "fused", "stock"),
        ),
        Goal("its memory, as a share of stock's", 0.25, _ratio(result, name, "losses", "peak_bytes", "fused", "stock")),
        Goal("time of a fused step, as a share of stock's, in the slowest setting", 1.0, slowest),
    ]


def _against_the_release(result: Json, name: str, most: float, ours: tuple[str, ...]) -> list[Goal]:
    found = []
    for baseline, targets in (("the release's with its targets", True), ("the release's alone", False)):
        ratios = [_ratio(result, name, "losses", "ms", provider, "release", targets) for provider in ours]
        best = min((ratio for ratio in ratios if ratio is not None), default=None)
        text = f"time of the loss, the best of {', '.join(ours)}, as a share of {baseline}"
        found.append(Goal(text, most, best))
    return found


def _ratio(
    result: Json, name: str, kind: str, field: str, provider: str, baseline: str, targets: bool = False
) -> float | None:
    """Divide a provider's figure in the setting ``name`` by the baseline's; None if either was not measured.

    ``targets`` adds the time of the baseline's targets to its own.
    """
    steps = {step["name"]: step for step in result["steps"]}
    rows = {row["provider"]: row for row in steps[name][kind]} if name in steps else {}
    a, b = rows.get(provider, {}), rows.get(baseline, {})
    if a.get("status") != "measured" or b.get("status") != "measured":
        return None
    ratio: float = a[field] / (b[field] + (b["targets_ms"] if targets else 0))
    return ratio
