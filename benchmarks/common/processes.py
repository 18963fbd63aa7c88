"""Programs run in processes of their own, with a time limit, so that a crash does not end the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TextIO

from benchmarks.common.paths import ROOT

GRACE = 20  # seconds to end in
EXITS = {0: "passed", 1: "some failed", 2: "could not be read", 5: "no tests"}  # pytest's exit codes


def execute(arguments: Sequence[str], seconds: float, log: TextIO, **environment: str) -> tuple[str, float]:
    """Run Python with these arguments for at most ``seconds``.

    Returns:
        How it ended, in the words of pytest's exit codes, and after how many seconds.
    """
    if seconds <= 0:
        return "not run: out of time", 0.0
    start = time.monotonic()
    # Started by a test, the process must not pass for a worker of that pytest: pytest-benchmark times nothing in one.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    child = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=log,
        stderr=log,
        env=inherited | environment,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    try:
        code = child.wait(seconds)
        status = EXITS.get(code, f"crashed: exit status {code}")
    except subprocess.TimeoutExpired:
        status = f"stopped after {seconds:.0f} s"
        child.send_signal(signal.SIGINT)  # pytest then writes what it has
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
    finally:
        _kill_group(child)
    return status, time.monotonic() - start


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """End the process and the compile workers that it may have left."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
