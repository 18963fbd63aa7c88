"""The command that says what runs here."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Versions, GPU, what runs on which backend and why not: the first lines of a bug report."""
    from ..doctor import report

    typer.echo(report())
