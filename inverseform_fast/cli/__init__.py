"""The command line, ``inverseform-fast``. A command imports its heavy modules itself, so that ``--help`` is quick."""

from __future__ import annotations

from ..errors import one_line


def main() -> None:
    """Runs the command line; ``--debug`` shows the traceback of an error that is otherwise one line."""
    with one_line():
        from .app import app

        app()
