"""The machine runs what Triton's compiler makes, so its tests need Triton, and a process without the interpreter."""

from __future__ import annotations

from inverseform_fast.ops.backend import INTERPRETED, MISSING

collect_ignore_glob = ["test_*.py"] if INTERPRETED or MISSING["triton"] else []
