"""Lists of classes are read and checked here."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

from ...files import read_text
from ..tasks import RGB, SemanticTask
from ..tasks.semantic import VOID, palette

_NOT_SHOWN = ("Cc", "Cs", "Zl", "Zp")  # control characters, half characters and ends of lines


def read_task(path: Path) -> SemanticTask:
    """Makes the semantic task with the classes of a ``classes.json`` or a ``classes.txt``.

    The JSON is a list, or an object with a list ``classes``. Its entries are names, or objects with a ``name`` and,
    optionally, a ``color`` (RGB 0..255) and an ``id`` (the position in the list). A text file has one name in each
    line, and no comments. Spaces around a name do not count. A class without a color gets one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, or one name twice; the message names it.
    """
    entries = _class_entries(path)
    if not isinstance(entries, list):
        raise ValueError(f"{path} must list 2 to 255 classes, got {type(entries).__name__} in place of a list")
    if not 2 <= len(entries) <= 255:
        raise ValueError(f"{path} must list 2 to 255 classes, got {len(entries)}")
    names, colors = [], list(palette(len(entries)))
    for position, entry in enumerate(entries):
        entry = {"name": entry} if isinstance(entry, str) else entry
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"class {position} of {path} must have a name, got {entry!r}")
        name = name.strip()
        if any(unicodedata.category(character) in _NOT_SHOWN for character in name):
            raise ValueError(f"class {position} of {path} must have a name of printable characters, got {name!r}")
        if name in names:
            raise ValueError(f"class {position} of {path} must have a name of its own, got {name} again")
        if entry.get("id", position) != position:
            raise ValueError(f"class {name} of {path} must have its position {position} as id, got {entry['id']!r}")
        names.append(name)
        if "color" in entry:
            colors[position] = _color(entry["color"], f"class {name} of {path}")
    return SemanticTask(classes=tuple(names), colors=tuple(colors))


def _class_entries(path: Path) -> object:
    """Returns what the file holds in the place of the list of classes; it may be anything."""
    if not path.is_file():
        raise FileNotFoundError(f"root must hold a list of classes: no file {path}")
    text = read_text(path)
    if path.suffix != ".json":
        names = [line.strip() for line in text.split("\n") if line.strip()]
        if comments := [name for name in names if name.startswith("#")]:
            raise ValueError(f"{path} must hold names alone, for it knows no comments, got {comments[0]!r}")
        return names
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON: {error}") from error
    if not isinstance(content, dict):
        return content
    if content.get("ignore_index", VOID) != VOID:
        raise ValueError(f"ignore_index of {path} must be {VOID}, got {content['ignore_index']!r}")
    return content.get("classes")


def _color(value: object, owner: str) -> RGB:
    if not isinstance(value, list) or [type(v) for v in value] != [int] * 3 or not 0 <= min(value) <= max(value) <= 255:
        raise ValueError(f"color of {owner} must be three integers 0..255, got {value!r}")
    return value[0], value[1], value[2]
