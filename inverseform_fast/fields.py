"""The fields of a dataclass of options hold what their annotations say: JSON and Python let anything through."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a string that is not empty",
    Path: "a path",
    NoneType: "null",
}
MOST_THREADS = 1024  # OpenMP ends the process if the system grants it fewer threads than it is told to use
MOST_SEED = 2**63 - 1
MOST_RATE = 1e6  # of learning and of weight decay: a step of AdamW must be a float32


def check_fields(config: Any) -> None:
    """Checks each field of a dataclass against its annotation.

    A bool is no number, a float is finite, a string is not empty, and a list does for a tuple.

    Raises:
        ValueError: a value is of another type; the message names the field.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not _fits(value, hints[field.name]):
            raise ValueError(f"{field.name} must be {_words(hints[field.name])}, got {value!r}")


def check_range(config: Any, lowest: float, *names: str, highest: float = math.inf) -> None:
    """Checks that numbers, or all numbers of a pair, lie in a range; None passes.

    Raises:
        ValueError: one does not; the message names the field.
    """
    for name in names:
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple | list) else [value]
        if value is not None and not all(lowest <= number <= highest for number in numbers):
            expected = f"at least {lowest}" if highest == math.inf else f"from {lowest} to {highest}"
            raise ValueError(f"{name} must be {expected}, got {value!r}")


def check_positive(config: Any, *names: str) -> None:
    """Checks that numbers, or all numbers of a pair, are above 0; None passes.

    Raises:
        ValueError: one is not; the message names the field.
    """
    for name in names:
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple | list) else [value]
        if value is not None and not all(number > 0 for number in numbers):
            expected = "two positive numbers" if isinstance(value, tuple | list) else "positive"
            raise ValueError(f"{name} must be {expected}, got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is Literal:
        return isinstance(value, str) and value in parts
    if kind is tuple:
        if not isinstance(value, tuple | list):
            return False
        parts = parts[:1] * len(value) if parts[1:] == (Ellipsis,) else parts
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if kind is dict:
        return isinstance(value, dict) and all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
    if hint is Any or not isinstance(hint, type):  # more than is known here
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) and value != ""


def _words(hint: Any) -> str:
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(map(_words, parts))
    if kind is Literal:
        return f"one of {parts}"
    if kind is tuple:
        return f"a list of {_words(parts[0])}" if parts[1:] == (Ellipsis,) else f"({', '.join(map(_words, parts))})"
    if kind is dict:
        return "an object" if parts[1] is Any else f"{_words(parts[1])} for each name"
    return _WORDS[hint]
