"""Names that users chose are shown as they are: in Markdown, on the terminal and in pictures."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Callable
from pathlib import Path

from rich.text import Text

# An underscore within a word is no markup, and such names are easier to read and to find without backslashes.
_MARKUP = re.compile(r"[\\`*\[|$~#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def printable(text: object) -> str:
    """Returns a text in one line, with Python's escapes for what cannot be printed, such as a line feed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def markdown(text: object) -> str:
    """Returns Markdown that shows a text as it is, in one line, also in the cell of a table."""
    return _MARKUP.sub(r"\\\g<0>", html.escape(printable(text), quote=False))


def terminal(text: object) -> Text:
    """Returns a text for rich's consoles and tables, in which brackets and colons are no markup."""
    return Text(printable(text))


def picture_or_reason(path: Path, title: str, draw: Callable[[], object]) -> str:
    """Calls ``draw``, which makes the file ``path``; returns Markdown that shows it, or says why it cannot be drawn."""
    try:
        draw()
    except Exception as error:  # whatever goes wrong in a picture, the results beside it are worth more
        path.unlink(missing_ok=True)
        reason = f"{path.name} could not be drawn: {type(error).__name__}: {printable(error)}"
        logging.getLogger("inverseform_fast").warning(reason)
        return markdown(reason)
    return f"![{title}]({path.name})"
