"""The command ``doctor`` says what runs on this machine."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Print versions, the GPU, and which backends run here or why they cannot. A bug report should begin with it."""
    from ..doctor import report

    typer.echo(report())
