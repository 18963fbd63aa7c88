"""What the measurements say: how the loss scales, and whether it keeps what was promised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.common.results import Json
from benchmarks.training.plan import plan_of


class Goal(NamedTuple):
    """A ratio: what it is of, what it may be at most, and what was found, None if that was not measured."""

    text: str
    asked: float
    found: float | None

    @property
    def met(self) -> bool:
        return self.found is not None and self.found <= self.asked


def fitted(x: Sequence[float], ms: Sequence[float]) -> dict[str, float]:
    """``ms = fixed + slope x`` by least squares, and the share of the variance that it explains."""
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
    steps = [_ratio(result, each, "steps", "ms", "fused", "stock") for each in settings]
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
    for theirs, targets in (("the release's with its targets", True), ("the release's alone", False)):
        ratios = [_ratio(result, name, "losses", "ms", each, "release", targets) for each in ours]
        best = min((ratio for ratio in ratios if ratio is not None), default=None)
        text = f"time of the loss, the best of {', '.join(ours)}, as a share of {theirs}"
        found.append(Goal(text, most, best))
    return found


def _ratio(
    result: Json, name: str, kind: str, field: str, mine: str, theirs: str, targets: bool = False
) -> float | None:
    """Mine to theirs in the setting ``name``, None if either was not measured; ``targets``: with their targets."""
    steps = {step["name"]: step for step in result["steps"]}
    rows = {row["provider"]: row for row in steps[name][kind]} if name in steps else {}
    a, b = rows.get(mine, {}), rows.get(theirs, {})
    if a.get("status") != "measured" or b.get("status") != "measured":
        return None
    ratio: float = a[field] / (b[field] + (b["targets_ms"] if targets else 0))
    return ratio
