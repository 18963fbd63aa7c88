"""What processes that cannot begin say: one message, whichever command and however they were started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from many_processes import Ended, launch

from inverseform_fast import cli
from inverseform_fast.segmentation.processes import joined


def _command(*words: str) -> None:
    sys.argv = ["inverseform-fast", *(word.replace("RANK", os.environ["RANK"]) for word in words)]
    cli.main()


def said(tmp_path: Path, *words: str) -> str:
    """What a command says that two processes cannot begin."""
    ended: list[Ended] = launch(2, _command, *words, logs=tmp_path)
    assert all(process.code for process in ended), ended
    messages = [process.error for process in ended if process.error]
    assert len(messages) == 1, ended
    return messages[0]


def test_a_wrong_option_is_told_once(tmp_path: Path) -> None:
    message = "error: device must be cuda without a number in a run that torchrun started, got 'cuda:0'\n"
    assert said(tmp_path, "train", "--device", "cuda:0") == message
    assert said(tmp_path, "evaluate", str(tmp_path)) == f"error: no checkpoint at {tmp_path}/last.pt\n"


def test_a_wrong_command_line_is_told_once(tmp_path: Path) -> None:
    assert "No such option: --shrad" in said(tmp_path, "train", "--shrad")


def test_an_error_of_one_process_is_told(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text("{")
    (tmp_path / "0.json").write_text("{}")
    assert f"config {tmp_path}/1.json must be JSON" in said(tmp_path, "train", "--config", f"{tmp_path}/RANK.json")


def test_other_commands_are_of_one_process(tmp_path: Path) -> None:
    expected = "error: on several processes, torchrun must start train or evaluate, got doctor\n"
    assert said(tmp_path, "doctor") == expected


def test_processes_of_another_launcher_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ValueError, match="must be started by torchrun, but it did not set WORLD_SIZE=2"),
        joined("cpu", 9),
    ):
        pass
