"""Results are JSON that follows a schema; it is checked when they are written, and by a test."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from inverseform_fast.files import write_atomically

Json = dict[str, Any]


def read(path: Path) -> Json:
    result: Json = json.loads(path.read_text())
    return result


def by_kind(root: Path, name: str) -> dict[str, Json]:
    """Read what was measured, by kind of machine: ``gpu`` and ``cpu``, which have a file each."""
    paths = {kind: path_of(root, name, kind) for kind in ("gpu", "cpu")}
    return {kind: read(path) for kind, path in paths.items() if path.exists()}


def path_of(root: Path, name: str, kind: str) -> Path:
    return root / f"benchmarks/results/{name}_{kind}.json"


def write(path: Path, result: object) -> None:
    write_atomically(path, lambda file: file.write(json.dumps(result, indent=1).encode()))


def check(schema: Json, results: object) -> None:
    """Check results, as read from JSON, against a schema.

    Raises:
        ValueError: they break it; the message says where.
    """
    if find_spec("fastjsonschema"):  # a machine without the validator must not lose what it has measured
        import fastjsonschema

        fastjsonschema.validate(schema, results)
