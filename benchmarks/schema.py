"""Results keep to their schemas: checked as they are written, if fastjsonschema is there, and by a test."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def load(name: str) -> dict[str, Any]:
    """A schema of this folder."""
    schema: dict[str, Any] = json.loads((Path(__file__).parent / name).read_text())
    return schema


def check(schema: dict[str, Any], results: Any) -> None:
    """Hold results, as read from JSON, to a schema.

    Raises:
        ValueError: they break it; the message says where.
    """
    if find_spec("fastjsonschema"):  # without it nothing that a borrowed machine has measured is lost
        import fastjsonschema

        fastjsonschema.validate(schema, results)
