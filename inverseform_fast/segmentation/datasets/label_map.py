"""The values of label files are turned into class ids."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ..tasks.semantic import VOID

Pairs = str | Mapping[str, int | str]
_VALUES = 2**16  # a label file has at most 16 bits
_UNLISTED = -1
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)


class LabelMap:
    """The class id of each value that a label file may hold.

    Args:
        pairs: ``VALUE:CLASS`` pairs with commas between them, such as ``"0:0,255:1"``. Either side may be a range:
            ``"1-150:0-149"`` counts on, and ``"1-6:void"`` gives one class to all. A class is an id 0..254, or ``void``
            (255 is the same). The value ``else`` stands for all that no other pair lists. A mapping such as
            ``{"0": 0, "255": 1}`` will do as well.
        expected: what a label file must hold, for messages.

    Attributes:
        ids: (65536,) int16: the class id of each value, -1 where there is none. 255 is void unless a pair lists it.
        channels: the highest class id plus one; 0 where all is void.
        lists_255: whether a pair, or ``else``, says what 255 is.

    Raises:
        ValueError: ``pairs`` is something else, or lists a value twice; the message begins with ``label_map``.
    """

    def __init__(self, pairs: Pairs, expected: str = "values that label_map lists") -> None:
        self.expected = expected
        self.ids = np.full(_VALUES, _UNLISTED, np.int16)
        rest = _UNLISTED
        for value, class_id in _parted(pairs):
            ids = _span(class_id.lower().replace("void", str(VOID)), class_id, VOID)
            if value.lower() == "else":
                if len(ids) > 1 or rest != _UNLISTED:
                    raise ValueError(f"label_map must give one class to else, once, got {pairs!r}")
                rest = ids[0]
                continue
            values = _span(value, value, _VALUES - 1)
            if len(ids) not in (1, len(values)):
                raise ValueError(f"label_map must have ranges of one length in a pair, got {value}:{class_id}")
            if (twice := self.ids[values.start : values.stop] != _UNLISTED).any():
                raise ValueError(f"label_map must list a value once, got {values[int(twice.argmax())]} twice")
            self.ids[values.start : values.stop] = ids
        self.lists_255 = bool(self.ids[VOID] != _UNLISTED) or rest != _UNLISTED
        self.ids[self.ids == _UNLISTED] = rest
        if not self.lists_255:
            self.ids[VOID] = VOID
        self.channels = 1 + int(self.ids[self.ids != VOID].max(initial=-1))

    def check(self, channels: int) -> None:
        """Raises a ValueError if there is a class id that is not below ``channels``."""
        if self.channels > channels:
            raise ValueError(f"label_map must give class ids 0..{channels - 1} or void, got {self.channels - 1}")

    def values(self) -> np.ndarray:
        """Returns (256,) int32: the lowest value that stands for each class id, -1 where there is none."""
        lowest = np.full(VOID + 1, _UNLISTED, np.int32)
        ids, first = np.unique(self.ids, return_index=True)
        lowest[ids[ids >= 0]] = first[ids >= 0]
        return lowest


def identity(num_classes: int) -> LabelMap:
    """Returns the map of label files whose values are the class ids, 255 for void."""
    ids = f"0-{num_classes - 1}"
    return LabelMap(f"{ids}:{ids}", f"class ids 0..{num_classes - 1} or {VOID} for void")


def _parted(pairs: object) -> list[tuple[str, str]]:
    """The two sides of each pair."""
    if isinstance(pairs, Mapping):
        return [(str(value).strip(), str(class_id).strip()) for value, class_id in pairs.items()]
    parts = [pair.split(":") for pair in pairs.split(",")] if isinstance(pairs, str) else []
    if not parts or any(len(part) != 2 for part in parts):
        raise ValueError(f"label_map must be VALUE:CLASS pairs such as 0:0,255:1, got {pairs!r}")
    return [(value.strip(), class_id.strip()) for value, class_id in parts]


def _span(text: str, given: str, highest: int) -> range:
    """The numbers of ``"7"`` or ``"3-7"``; ``given`` is what the message shows."""
    match = _RANGE.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not first <= last <= highest:
        kind = "a class id, a range of them or void" if highest == VOID else "a value, a range of values or else"
        raise ValueError(f"label_map must have {kind} (0..{highest}) on this side of a pair, got {given!r}")
    return range(first, last + 1)
