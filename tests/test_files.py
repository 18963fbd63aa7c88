"""Files are whole or absent, a folder has one run at a time, and nothing of a killed run stays in the way."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TextIO

import pytest

from inverseform_fast.files import LOCK, check_new_file, locked, write_atomically


def in_another_process(work: Callable[[], object]) -> int:
    """Does ``work`` in a fork; returns 0, or 1 if it raised BlockingIOError."""
    if (pid := os.fork()) == 0:
        try:
            work()
            os._exit(0)
        except BlockingIOError:
            os._exit(1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def lock(folder: Path) -> None:
    with locked(folder):
        pass


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    with locked(folder):
        lock(folder)  # the process may lock its own folder again
        assert in_another_process(lambda: lock(folder)) == 1
        assert in_another_process(lambda: lock(tmp_path / "runs" / "two")) == 0
        (folder / "result").touch()
    assert in_another_process(lambda: lock(folder)) == 0
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_who_uses_a_folder_is_said(tmp_path: Path) -> None:
    out, message = tmp_path / "run", tmp_path / "message"

    def refused() -> None:
        try:
            lock(out)
        except BlockingIOError as error:
            message.write_text(str(error))

    with locked(out):
        in_another_process(refused)
    assert f"no other run is using, but process {os.getpid()} on " in message.read_text()


def test_a_lock_that_its_owner_removes_just_now_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lockf, ends = fcntl.lockf, [(tmp_path / LOCK).unlink]

    def after_the_end_of_the_owner(file: TextIO, operation: int) -> None:
        if ends:
            ends.pop()()
        lockf(file, operation)

    monkeypatch.setattr(fcntl, "lockf", after_the_end_of_the_owner)
    with locked(tmp_path):
        assert in_another_process(lambda: lock(tmp_path)) == 1


def test_a_killed_run_leaves_no_lock_and_no_half_file(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:

        def wait(file: BinaryIO) -> None:
            os.write(writer, b"begun")
            signal.pause()

        with locked(tmp_path):
            write_atomically(tmp_path / "last.pt", wait)
    os.read(reader, 5)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert len(list(tmp_path.iterdir())) == 2  # the lock file, and half a checkpoint
    (tmp_path / ".mine.tmp").touch()
    with locked(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {LOCK, ".mine.tmp"}


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bad"), locked(tmp_path / "runs" / "one"):
        raise ValueError("bad option")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match=r"^out must be a folder, but .*file is a file$"):
        lock(tmp_path / "file")
    with pytest.raises(
        NotADirectoryError, match=r"^out must be a folder that can be written into, but .*deeper cannot: "
    ):
        lock(tmp_path / "file" / "deeper")


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"

    def write(file: BinaryIO) -> None:
        file.write(b"first ")
        write_atomically(path, lambda other: other.write(b"second"))
        assert path.read_bytes() == b"second"
        file.write(b"whole")

    write_atomically(path, write)
    assert path.read_bytes() == b"first whole"
    assert list(tmp_path.iterdir()) == [path]


def test_links_and_devices_are_written_to(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_atomically(tmp_path / "link", lambda file: file.write(b"new"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    write_atomically(Path(os.devnull), lambda file: file.write(b"gone"))
    assert not Path(os.devnull).is_file()
    with pytest.raises(OSError, match="No space left"):
        write_atomically(Path("/dev/full"), lambda file: file.write(b"x"))


def test_the_file_that_output_goes_to_keeps_what_stands_there(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"earlier run, ")

    def program() -> None:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
        os.write(1, b"table, ")
        write_atomically(Path("/dev/stdout"), lambda file: file.write(b"metrics, "))
        os.write(1, b"end")

    assert in_another_process(program) == 0
    assert log.read_bytes() == b"earlier run, table, metrics, end"


def test_an_error_of_writing_names_the_file(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*last\.pt'"):
        write_atomically(tmp_path / "last.pt", fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nodir/x.json", "json must be a file in a folder that exists, got "),
        ("", "json must be a file, but .* is a folder"),
        ("/proc/x", "json must be a file that can be written, but /proc/x cannot: "),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(OSError, match=message):
        check_new_file(tmp_path / name, "json")
    check_new_file(tmp_path / "x.json", "json")
    check_new_file(Path(os.devnull), "json")
    assert not list(tmp_path.iterdir())
