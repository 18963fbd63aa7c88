"""An error that a user can mend ends a program with one line that says what to do."""

from __future__ import annotations

import sys

import pytest

from inverseform_fast import cli
from inverseform_fast.errors import one_line
from inverseform_fast.segmentation.demo import main as demo_main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\nlines"), "error: two lines"),
        (
            ValueError(
                "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback:\n  x\nValueError: a: bad\n"
            ),
            "error: a: bad",
        ),
        (MemoryError(), "error: there is too little memory for images or batches of this size: "),
        (ConnectionError("process 1 was killed (out of memory?)"), "error: process 1 was killed (out of memory?)"),
    ],
)
def test_an_error_of_many_lines_becomes_one(error: Exception, line: str) -> None:
    with pytest.raises(SystemExit) as end, one_line():
        raise error
    assert end.value.code == line


def test_without_typer_there_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.startswith("inverseform_fast.cli.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r"^error: this needs the training programs \(typer is missing\): "):
        cli.main()


def test_the_demo_says_in_one_line_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", "--steps", "0"])
    with pytest.raises(SystemExit, match=r"^error: steps must be positive, got 0$"):
        demo_main()
