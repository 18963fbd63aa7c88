"""The processes of a run that ``torchrun`` started: they meet, make sure that they agree, and end together."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

from ..devices import choose_device
from ..errors import DEBUG, failure_key, said_by_another

T = TypeVar("T")
_MEETING = timedelta(minutes=10)  # within which the processes start; imports from a network disk take long
_ROLL_CALL = 4.0  # seconds in which a living process answers


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them; without ``torchrun`` there is one.

    Attributes:
        device: where this process computes.
        rank: its number, 0 .. ``size`` - 1.
        size: how many there are.
        store: holds what they tell each other without a collective; None without ``torchrun``.
        launch: as ``store``, but what it holds survives ``torchrun``'s restarts.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    store: dist.Store | None = None
    launch: dist.Store | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes all files and speaks for all."""
        return self.rank == 0

    @property
    def has_begun(self) -> bool:
        """Whether ``torchrun`` starts the processes anew, after they had begun to train."""
        return self.launch is not None and self.launch.check(["begun"])

    def begin(self) -> None:
        """Notes that the training begins, so that a restart resumes it."""
        if self.launch is not None:
            self.launch.set("begun", "")

    def from_first(self, make: Callable[[], T]) -> T:
        """Returns what the first process makes."""
        if self.store is None:
            return make()
        made: list[Any] = [make() if self.is_first else None]
        dist.broadcast_object_list(made, device=torch.device("cpu"))
        return made[0]

    def after_first(self, work: Callable[[], object], name: str) -> None:
        """Lets the first process do work, for which the others wait however long it takes; ``name`` is used once."""
        if self.is_first:
            work()
        if self.store is None:
            return
        if self.is_first:
            self.store.set(name, "")
        while not self.store.check([name]):
            time.sleep(0.02)

    def average(self, values: Mapping[str, float]) -> dict[str, float]:
        """Returns the means over all processes of numbers by name."""
        if self.store is None:
            return dict(values)
        mean = torch.tensor(list(values.values()), dtype=torch.float64) / self.size
        dist.all_reduce(mean)
        return dict(zip(values, mean.tolist(), strict=True))

    def require_same(self, what: str, values: Mapping[str, Any]) -> None:
        """Checks that all processes have the same values by name.

        Raises:
            ValueError: they do not; the message names the value and the process.
        """
        if self.store is None:
            return
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, dict(values))
        for rank, others in enumerate(gathered):
            for name, value in gathered[0].items():
                if others[name] != value:
                    raise ValueError(
                        f"all processes must have the same {what}, but {name} is {value!r} of process 0 "
                        f"and {others[name]!r} of process {rank}"
                    )

    @contextmanager
    def watched(self, timeout: int) -> Iterator[None]:
        """Explains an error by the process that does not answer, if there is one.

        Raises:
            ConnectionError: another process was killed, or hangs.
        """
        try:
            yield
        except (RuntimeError, KeyboardInterrupt) as error:
            if self.store is None or not (isinstance(error, KeyboardInterrupt) or _is_of_a_collective(error)):
                raise
            missing = self._missing()
            if not missing:
                raise
            names = " and ".join(map(str, missing))
            raise ConnectionError(
                f"process {names} of {self.size} (counted from 0) ended, was killed (out of memory?), or did nothing "
                f"for {timeout} s (--timeout)"
            ) from error

    def _missing(self) -> list[int]:
        """Calls the roll; returns the processes that do not answer, and none if one has said what went wrong."""
        assert self.store is not None
        assert self.launch is not None
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it would end this process, which is ending
        missing = list(range(self.size))
        deadline = time.monotonic() + _ROLL_CALL
        try:
            self.store.set(f"alive {self.rank}", "")
            while missing and time.monotonic() < deadline:
                if self.launch.check([failure_key()]):
                    return []
                missing = [rank for rank in missing if not self.store.check([f"alive {rank}"])]
                time.sleep(0.05)
        except dist.DistError:  # nor does the machine on which the store is
            return [0]
        return missing


def _is_of_a_collective(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def speaks() -> bool:
    """Whether this process speaks for all that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


def own_device(name: str | None) -> torch.device:
    """Returns the device called ``name``, as :func:`choose_device` does; under ``torchrun`` a GPU of the process's own.

    Raises:
        ValueError: this machine has no such device, or fewer GPUs than processes; or a GPU has a number under
            ``torchrun``.
    """
    if not dist.is_torchelastic_launched():
        return choose_device(name)
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda:"):
        raise ValueError(f"device must be cuda without a number in a run that torchrun started, got {name!r}")
    device = choose_device(f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" else name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def share_of(length: int) -> range:
    """Returns which of ``length`` things are this process's; every thing is of one process."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return range(rank, length, size)


@contextmanager
def joined(device: str | None, timeout: int) -> Iterator[Processes]:
    """Joins the processes that ``torchrun`` started, and leaves them at the end; alone if it started none.

    The first process to fail raises its error. The others end in silence with exit code 1, so that there is one
    message. ``torchrun`` ends them if they cannot notice.

    Args:
        device: as :func:`own_device` has it.
        timeout: seconds for which a process waits for another one.

    Raises:
        ValueError: the device is wrong, or another program than ``torchrun`` started several processes.
        ConnectionError: another process was killed, or hangs.
    """
    if not dist.is_torchelastic_launched():
        if (size := os.environ.get("WORLD_SIZE", "1")) != "1":
            raise ValueError(f"several processes must be started by torchrun, but it did not set WORLD_SIZE={size}")
        yield Processes(own_device(device))
        return
    launch, rank, size = next(dist.rendezvous("env://", timeout=_MEETING))
    store = dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", launch)
    try:
        processes = Processes(own_device(device), rank, size, store, launch)
        store.set(f"joined {rank}", "")
        store.wait([f"joined {each}" for each in range(size)], _MEETING)
        backend = "cpu:gloo,cuda:nccl" if processes.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout))
        # Its destructor can wait for a thread that waits for Python, which it holds itself: the group lives for ever.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(dist.group.WORLD))
        launch.set_timeout(timedelta(seconds=timeout))
        signal.signal(signal.SIGTERM, _interrupt)  # which torchrun sends when another process has failed
        with processes.watched(timeout):
            yield processes
    except BaseException as error:
        if said_by_another(launch) and not os.environ.get(DEBUG):
            raise SystemExit(1) from error
        raise
    dist.destroy_process_group()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
