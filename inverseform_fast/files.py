"""Files that are either whole or absent, and folders into which one process at a time writes its run."""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_TEMPORARY = re.compile(r"\.inverseform-[0-9a-f]{16}\.tmp")
_held: set[tuple[int, Path]] = set()  # (process, folder): a process that was forked holds no lock of its parent


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Make a file by ``write(file)``; at any moment, even after a crash, ``path`` holds the old content or the new.

    A link is followed, and a pipe, a device or the program's own output, such as ``/dev/stdout``, is written to.

    Raises:
        OSError: the file cannot be written, because the disk is full, say; the error names it.
    """
    if (stream := _own_stream(path)) is not None:
        with os.fdopen(os.dup(stream), "wb") as file:
            write(file)
        return
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") as file:
            write(file)
        return
    target = path.resolve()
    temporary = target.with_name(f".inverseform-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _own_stream(path: Path) -> int | None:
    """The descriptor of the output of this program that ``path`` is: a log file, perhaps, that must not be replaced."""
    with suppress(OSError):  # there is no such file, or the stream is closed
        return next((each for each in (1, 2) if os.path.samestat(path.stat(), os.fstat(each))), None)
    return None


def read_text(path: Path) -> str:
    """Reads a text file of UTF-8, without the byte order mark that some editors put in front.

    Raises:
        ValueError: the file is not of UTF-8; the message names it.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8: {error}") from error


def check_new_file(path: Path, argument: str) -> None:
    """Checks, before the work for it is done, that a file can be written; the message calls it ``argument``.

    Raises:
        OSError: it is a folder, its folder does not exist, or nothing can be written there.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{argument} must be a file, but {path} is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{argument} must be a file in a folder that exists, got {path}")
    if path.exists() and not path.is_file():  # a pipe or a device
        return
    try:
        tempfile.TemporaryFile(dir=path.resolve().parent).close()
    except OSError as error:
        raise type(error)(
            f"{argument} must be a file that can be written, but {path} cannot: {error.strerror}"
        ) from error


@contextmanager
def locked(folder: Path, argument: str = "out") -> Iterator[None]:
    """Makes a folder, and keeps the runs of other processes out of it; a process may lock its own folder again.

    The system releases the lock when the process ends, however it ends. What a killed run left half written is removed.
    At the end the folder is removed if it was made here and is still empty, so that a run that cannot begin leaves
    nothing. Where the file system knows no locks, there is none.

    Args:
        folder: the folder; the folders above it are made, too.
        argument: what error messages call it.

    Raises:
        FileExistsError: it is a file.
        BlockingIOError: another process has locked it.
        OSError: nothing can be written there.
    """
    place = folder.resolve()
    key = os.getpid(), place
    if key in _held:
        yield
        return
    if place.exists() and not place.is_dir():
        raise FileExistsError(f"{argument} must be a folder, but {folder} is a file")
    made = [each for each in (place, *place.parents) if not each.exists()]
    try:
        file = _open_lock(folder, argument)
        _held.add(key)
        try:
            for path in place.iterdir():
                if _TEMPORARY.fullmatch(path.name):
                    path.unlink(missing_ok=True)
            yield
        finally:
            _held.remove(key)
            with file, suppress(OSError):
                (place / LOCK).unlink()
    finally:
        with suppress(OSError):  # the first one that is not empty
            for each in made:
                each.rmdir()


def check_is_shared(folder: Path, argument: str = "out") -> None:
    """Checks that this process can write into the very folder that another process of the run has locked.

    Raises:
        ValueError: it is another folder, such as one of that name on another machine.
        OSError: nothing can be written there.
    """
    if not (folder / LOCK).exists():
        raise ValueError(f"{argument} must be one folder that all processes share, got {folder} on {platform.node()}")
    check_new_file(folder / LOCK, argument)


def _open_lock(folder: Path, argument: str) -> TextIO:
    """Makes the folder and its lock file; returns the file, open and locked."""
    path = folder.resolve() / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise type(error)(
            f"{argument} must be a folder that can be written into, but {folder} cannot: {error.strerror}"
        ) from error
    try:
        if fcntl:
            # A record lock: unlike that of flock, a worker that outlives a killed run does not inherit it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            raise BlockingIOError(
                f"{argument} must be a folder that no other run is using, but {owner} is using {folder}: "
                "wait for it to end, or choose another folder"
            ) from error
    if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):  # its owner removed it just now
        file.close()
        return _open_lock(folder, argument)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}")
    file.flush()
    return file
