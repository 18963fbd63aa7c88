"""Long work shows how far it is: by a bar in a terminal, by a line now and then in a pipe or a log file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
_LINES = 10  # for each piece of work


def bars(console: Console) -> Progress:
    """Makes the bars, which only a terminal shows; a task of them has the field ``status``, a text."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    status = TextColumn("{task.fields[status]}", markup=False)
    return Progress(*columns, status, console=console, disable=not console.is_terminal)


def say(console: Console, text: str) -> None:
    """Prints a line as it is, however long it is and whatever brackets are in it."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def counter(progress: Progress, description: str, total: int) -> Callable[[int], None]:
    """Adds a piece of work to the bars; returns a function that counts what is done of it."""
    bar, done = progress.add_task(description, total=total, status=""), 0

    def count(more: int) -> None:
        nonlocal done
        before, done = done, done + more
        progress.advance(bar, more)
        if done >= total:
            progress.remove_task(bar)
        if not progress.console.is_terminal and _LINES * done // total > _LINES * before // total:
            say(progress.console, f"{description}: {done} of {total}")

    return count


def track(items: Sequence[T], description: str, console: Console | None = None) -> Iterator[T]:
    """Yields the items, and shows how many were dealt with."""
    with bars(console or Console()) as progress:
        count = counter(progress, description, len(items))
        for item in items:
            yield item
            count(1)
