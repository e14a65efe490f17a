"""How a run ends early: signals that ask for a checkpoint and a stop, and one line for processes that died."""

import re
import signal
import threading
import time

import torch.distributed as dist

from mmnas.errors import MMNasError

_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)")
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


class InterruptedRun(Exception):
    """A signal ended the run after a checkpoint was written; `exit_code` is 128 + its number."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class StopSignal:
    """Notes the first SIGINT or SIGTERM; a later one has its usual effect at once.

    A terminal and a launcher may both pass on what the user pressed once, so signals that come together
    count as one.
    """

    TOGETHER = 1.0  # seconds

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0

    def __enter__(self) -> "StopSignal":
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: object) -> None:
        if not self.number:
            self.number, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > self.TOGETHER:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
