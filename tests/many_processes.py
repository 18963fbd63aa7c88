"""Tests start the processes of a run as ``torchrun`` does, but faster: from a server that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist

from inverseform_fast.errors import one_line

_SPAWN = multiprocessing.get_context("forkserver")
_SPAWN.set_forkserver_preload(["inverseform_fast.segmentation.training.run", "many_processes", "uneven_runs"])


class Ended(NamedTuple):
    """How a process ended: its exit code, negative for a signal, and what it wrote on stderr."""

    code: int | None
    error: str


def launch(count: int, work: Callable[..., object], *arguments: Any, logs: Path, attempt: int = 0) -> list[Ended]:
    """Calls ``work(*arguments)`` in each of ``count`` processes; ends all of them when one fails, as torchrun does.

    ``attempt`` is the number of restarts before, and ``logs`` a folder.
    """
    agent = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    common = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": agent.port, "TORCHELASTIC_RUN_ID": "test"}
    common |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": attempt}
    logs.mkdir(parents=True, exist_ok=True)
    processes = []
    for rank in range(count):
        variables = {name: str(value) for name, value in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()}
        target = (variables, logs / f"{rank}.txt", work, arguments)
        processes.append(_SPAWN.Process(target=_run, args=target))
        processes[-1].start()
    running = list(processes)
    while running:
        wait([process.sentinel for process in running])
        running = [process for process in running if process.exitcode is None]
        if any(process.exitcode for process in processes):
            time.sleep(0.1)  # torchrun looks at its processes as often
            for process in running:
                process.terminate()
    return [Ended(process.exitcode, (logs / f"{rank}.txt").read_text()) for rank, process in enumerate(processes)]


def _run(variables: dict[str, str], log: Path, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    os.environ.update(variables)
    sys.stderr = log.open("w", buffering=1)
    os.dup2(sys.stderr.fileno(), 2)
    with one_line():
        work(*arguments)
