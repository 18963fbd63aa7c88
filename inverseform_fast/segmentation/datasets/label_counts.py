"""What the label maps of a split hold is counted, said in one line, and refused where it cannot be meant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..tasks.semantic import VOID
from .label_map import LabelMap

_MOST_VOID = 0.25  # where a class never occurs: data sets with all their classes have up to a fifth of void
_SHOWN = 8  # values or names that a message lists


class LabelCounts:
    """Counts the pixels of each class in the label maps of a split.

    Args:
        owner: whose label maps they are, for messages.
        classes: the names of the classes.
        label_map: the class id of each value.
        counts: (65536,) the number of pixels of each value.
    """

    def __init__(self, owner: str, classes: Sequence[str], label_map: LabelMap, counts: np.ndarray) -> None:
        self.owner, self.counts, self._classes, self._ids = owner, counts, classes, label_map.ids
        pixels = np.bincount(label_map.ids[counts > 0], counts[counts > 0], minlength=VOID + 1)
        total = max(1, int(counts.sum()))
        self.missing = [name for name, count in zip(classes, pixels, strict=False) if not count]
        self.occurring = len(classes) - len(self.missing)
        self.void = pixels[VOID] / total
        self._unsaid = 0.0 if label_map.lists_255 else counts[VOID] / total  # share of 255 that nobody called void

    def text(self) -> str:
        """Returns, for example, ``"129 classes, of which 2 occur, and 0.0 % of the pixels are void"``."""
        count = len(self.missing) + self.occurring
        found = (
            f"{count} classes, of which {self.occurring} occur" if self.missing else f"{count} classes, which all occur"
        )
        never = f" (not {listed(self.missing)})" if 0 < len(self.missing) <= self.occurring else ""
        return f"{found}{never}, and {100 * self.void:.1f} % of the pixels are void"

    def check(self) -> None:
        """Raises an error if one of two classes never occurs, but 255 does, as in masks of 0 and 255."""
        if len(self._classes) == 2 and self.missing and self._unsaid:
            raise ValueError(self._complaint())

    def check_for_training(self) -> None:
        """Raises an error if there is nothing to learn from, or if 255 seems to be a class."""
        if self.missing and self._unsaid > _MOST_VOID:
            raise ValueError(self._complaint())
        if self.occurring < 2:
            raise ValueError(f"{self.owner} must show at least two classes to train on, got {self.text()}")

    def _complaint(self) -> str:
        values = [int(value) for value in self.counts.nonzero()[0] if value != VOID]
        own = map_of(values, self._ids[values].tolist()) + "," if values else ""
        return (
            f"{self.owner} must show every class, but {listed(self.missing)} "
            f"{'never occurs' if len(self.missing) == 1 else 'never occur'}, and {self._unsaid:.1%} of the pixels are "
            f"{VOID}, which is void. If {VOID} is a class, say so by --data-option label_map={own}{VOID}:"
            f"{self._classes.index(self.missing[0])}; if it is void, by label_map={own}{VOID}:void"
        )


def map_of(values: Sequence[int], ids: Sequence[int]) -> str:
    """Returns the label map that gives these class ids to these values, with ranges where both count on."""
    pairs, start = [], 0
    for end in range(1, len(values) + 1):
        if end == len(values) or (values[end], ids[end]) != (values[end - 1] + 1, ids[end - 1] + 1):
            single = end == start + 1
            spans = (f"{side[start]}" if single else f"{side[start]}-{side[end - 1]}" for side in (values, ids))
            pairs.append(":".join(spans))
            start = end
    return ",".join(pairs)


def listed(items: Sequence[object]) -> str:
    """Returns the first items with commas between them, and how many more there are."""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(map(str, items[:_SHOWN])) + more
