"""The command line, ``inverseform-fast``. A command imports its heavy modules itself, so that ``--help`` is quick."""

from __future__ import annotations

import os
import sys

DEBUG = "INVERSEFORM_FAST_DEBUG"
_EXTRA_MODULES = {
    "PIL",
    "matplotlib",
    "rich",
    "tensorboard",
    "timm",
    "torchmetrics",
    "torchvision",
    "transformers",
    "typer",
}


def main() -> None:
    """Runs the command line.

    An error that the user can mend is printed as one line on stderr, with exit code 1; ``--debug`` shows its traceback.
    """
    try:
        from .app import app

        app()
    except ModuleNotFoundError as error:
        if os.environ.get(DEBUG) or (error.name or "").split(".")[0] not in _EXTRA_MODULES:
            raise
        sys.exit(
            f"error: this needs the training extra: pip install 'inverseform-fast[train]' ({error.name} is missing)"
        )
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get(DEBUG):
            raise
        sys.exit(f"error: {error}")
