"""An error that ends a program is one line on stderr; its traceback is for those who ask for it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

DEBUG = "INVERSEFORM_FAST_DEBUG"  # the environment variable that asks for tracebacks
EXTRA_MODULES = {
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


_MEETING = timedelta(seconds=20)  # within which a process that failed finds the store of torchrun


class Interrupted(Exception):
    """A KeyboardInterrupt on its way through a library that would swallow its message."""


def failure_key() -> str:
    """Under which the first process to fail leaves its rank in the store of ``torchrun``."""
    return f"failure of attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}"


def said_by_another(store: dist.Store | None = None) -> bool:
    """Whether another process that ``torchrun`` started says what went wrong; if none does, it is for this one to say.

    Args:
        store: that of ``torchrun``, which is looked for if this process has not joined the others yet.
    """
    if not dist.is_torchelastic_launched():
        return False
    try:
        store = store or next(dist.rendezvous("env://", timeout=_MEETING))[0]
        rank = os.environ["RANK"]
        return store.compare_set(failure_key(), "", rank).decode() != rank
    except (dist.DistError, ValueError):  # its machine has gone, or the environment is not torchrun's
        return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, in any library: PyTorch on a CPU, cuBLAS and Triton have errors of their own for it."""
    text = str(error).lower()
    said = any(words in text for words in ("out of memory", "alloc_failed", "can't allocate memory"))
    return said or isinstance(error, MemoryError | torch.OutOfMemoryError)


@contextmanager
def one_line() -> Iterator[None]:
    """Ends the program with one line on stderr for an error that the user can mend: exit code 1, or 130 for Ctrl-C."""
    hook = threading.excepthook
    if not os.environ.get(DEBUG):
        threading.excepthook = lambda _: None  # the thread in which TensorBoard writes; its error is raised here, too
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        line = _line(error)
        if line is None or os.environ.get(DEBUG):
            raise
        if said_by_another():
            sys.exit(1)
        if isinstance(error, KeyboardInterrupt | Interrupted):
            print(line, file=sys.stderr)
            sys.exit(130)
        sys.exit(line)  # which Python prints on stderr, with exit code 1
    finally:
        threading.excepthook = hook


def _line(error: BaseException) -> str | None:
    """Says in one line what the user can do; None if the error is not the user's."""
    text = " ".join(_without_traceback(str(error)).split())
    if isinstance(error, KeyboardInterrupt | Interrupted):
        return f"interrupted: {text}" if text else "interrupted"
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in EXTRA_MODULES:
        return (
            f"error: this needs the training programs ({error.name} is missing): in a clone of the repository, "
            'pip install --no-build-isolation ".[train]"'
        )
    if isinstance(error, ValueError | OSError | FloatingPointError):
        return f"error: {text}"
    too_little = f"error: there is too little memory for images or batches of this size: {text}"
    return too_little if is_out_of_memory(error) else None


def _without_traceback(text: str) -> str:
    """What went wrong in a worker of a DataLoader, which puts the whole traceback into the message."""
    return text.strip().splitlines()[-1].partition(": ")[2] if text.startswith("Caught ") else text
