"""Long work shows how far it is, in a terminal and in a log file, and prints what it is given as it is."""

from __future__ import annotations

import io

from rich.console import Console

from inverseform_fast.segmentation.progress import bars, counter, say, track


def test_a_log_file_gets_at_most_ten_lines_and_the_last_one_is_the_end() -> None:
    printed = io.StringIO()
    assert list(track(range(250), "aligning", Console(file=printed, width=10))) == list(range(250))
    lines = printed.getvalue().splitlines()
    assert lines == [f"aligning: {done} of 250" for done in range(25, 251, 25)]


def test_a_counter_counts_batches() -> None:
    printed = io.StringIO()
    with bars(Console(file=printed)) as progress:
        count = counter(progress, "evaluating", 5)
        for images in (2, 2, 1):
            count(images)
    assert printed.getvalue().splitlines() == [f"evaluating: {done} of 5" for done in (2, 4, 5)]


def test_a_terminal_gets_a_bar() -> None:
    printed = io.StringIO()
    list(track(range(3), "aligning", Console(file=printed, force_terminal=True, width=80)))
    assert "aligning" in printed.getvalue()
    assert "of 3" not in printed.getvalue()


def test_a_line_is_printed_as_it_is() -> None:
    printed = io.StringIO()
    say(Console(file=printed, width=10), "mIoU of [red] and [/red]: 1.0")
    assert printed.getvalue() == "mIoU of [red] and [/red]: 1.0\n"
