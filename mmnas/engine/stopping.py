"""How a run ends early: signals that ask for a checkpoint and a stop, and one line for processes that died."""

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch.distributed as dist

from mmnas.errors import MMNasError

T = TypeVar("T")
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM)
"""What asks a run to save and stop: a user, a system, a closed terminal, a batch system, and the time limit."""
_GLOO = re.compile(r"gloo|Connection (closed|reset) by peer|Broken pipe", re.IGNORECASE)


class LostProcess(MMNasError):
    """Another process of the group is gone; which one, and how it ended, only whoever started them knows."""


def explained(exception: RuntimeError) -> MMNasError | None:
    """Return what to tell the user about a worker or a process of the group that died; None for anything else."""
    worker = _WORKER.search(str(exception))
    if worker is not None:
        return MMNasError(
            f"data loading worker (process {worker[1]}) {worker[2].strip().rstrip('.')}; checkpoints are intact, "
            "resume with --RESUME; if memory ran out, use fewer workers, --NW"
        )
    if isinstance(exception, dist.DistError) or (dist.is_initialized() and _GLOO.search(str(exception))):
        return LostProcess(
            "the connection to another process of the run is lost; checkpoints are intact, resume with --RESUME"
        )
    return None


class InterruptedRun(BaseException):
    """The signal `number` ends the run; like Ctrl-C, it is no error that a reader of data could handle."""

    def __init__(self, number: int, message: str = "stopped: no result is written") -> None:
        super().__init__(message)
        self.number = number


class StopSignal:
    """Notes the first of `SIGNALS`; a later SIGINT or SIGTERM has its usual effect at once.

    A terminal and a launcher may both pass on what the user pressed once, so signals that come together
    count as one. At the time `deadline` the process receives SIGALRM.
    """

    TOGETHER = 1.0  # seconds

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self.number = 0
        self._since = 0.0
        self._process = os.getpid()
        self._at_once = False

    def __enter__(self) -> "StopSignal":
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            hung_up = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # `nohup` asked to go on without a terminal
            for number in SIGNALS:
                if number != signal.SIGHUP or not hung_up:
                    self._previous[number] = signal.signal(number, self._receive)
            if self.deadline is not None:
                signal.setitimer(signal.ITIMER_REAL, max(self.deadline - time.time(), 1e-3))
        return self

    def __exit__(self, _: object, exception: object, __: object) -> None:
        if self.deadline is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self.number and isinstance(exception, RuntimeError) and isinstance(explained(exception), LostProcess):
            raise InterruptedRun(self.number) from None  # those that stopped first do not answer the others

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `InterruptedRun` wherever a signal meets the block, or if there was one: it may wait for ever."""
        self._at_once = True
        try:
            if self.number:
                raise InterruptedRun(self.number)
            yield
        finally:
            self._at_once = False

    def until_asked(self, items: Iterator[T], agree: Callable[[bool], bool]) -> Iterator[T]:
        """Yield the items until a signal came; the processes `agree` before each whether any of them stops.

        So a signal also ends the waiting for a worker that hangs, and no process waits for another's gradients.
        """
        while True:
            try:
                with self.at_once():
                    item = next(items, None)
            except InterruptedRun:
                item = None
            if agree(item is None) or item is None:
                return
            yield item

    def _receive(self, number: int, _: object) -> None:
        if not self.number:
            self.number, self._since = number, time.monotonic()
            if self._at_once and os.getpid() == self._process:  # not in a worker that is just being started
                raise InterruptedRun(number)
        elif number in (signal.SIGINT, signal.SIGTERM) and time.monotonic() - self._since > self.TOGETHER:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
