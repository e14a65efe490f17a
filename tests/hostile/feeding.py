"""Feeds altered files to a reader and counts what comes of them."""

import contextlib
import random
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmnas.errors import MMNasError
from tests.hostile.mutate_binary import altered
from tests.hostile.readers import READERS, Reader

SECONDS = 5.0  # that reading one small file may take
MEBIBYTES = 768  # that the process may grow by
LONGEST_MESSAGE = 2000


class TooLong(BaseException):
    """The time for one file is over; no `except Exception` may swallow it."""


@dataclass
class Outcome:
    """What came of a reader's inputs; `faults` say how to make each bad one again."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0
    """Seconds."""
    growth: float = 0.0
    """Of the process, mebibytes."""
    faults: list[str] = field(default_factory=list)


def feed(name: str, folder: Path, numbers: Iterable[int], seed: int) -> Outcome:
    """Write a valid file into `folder`, then read as many altered ones as there are `numbers`."""
    reader, outcome = READERS[name], Outcome()
    path = reader.write(folder)
    content = path.read_bytes()
    reader.read(folder)  # the valid one
    start = peak_memory()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in numbers:
            path.write_bytes(altered(content, reader.form, random.Random(f"{seed} {name} {number}")))
            _try(reader, folder, f"{name}, seed {seed}, input {number}", outcome)
            outcome.growth = max(outcome.growth, peak_memory() - start)
    if outcome.growth > MEBIBYTES:
        outcome.faults.append(f"{name}: grew by {outcome.growth:.0f} MiB")
    return outcome


def _try(reader: Reader, folder: Path, what: str, outcome: Outcome) -> None:
    start = time.monotonic()
    outcome.inputs += 1
    try:
        with time_limit(SECONDS):
            reader.read(folder)
        outcome.accepted += 1
    except MMNasError as exception:
        outcome.refused += 1
        if not is_clear(str(exception)):
            outcome.faults.append(f"{what}: no clear line: {str(exception)[:300]!r}")
    except (Exception, TooLong) as exception:  # noqa: BLE001 - these are what is looked for
        place = traceback.extract_tb(exception.__traceback__)[-1]
        reason = (
            f"{type(exception).__name__} in {Path(place.filename).name}:{place.lineno}: {str(exception)[:200]!r}"
        )
        outcome.faults.append(f"{what}: {reason}")
    outcome.slowest = max(outcome.slowest, time.monotonic() - start)


def is_clear(message: str) -> bool:
    """Whether a message is one printable line of a bearable length."""
    return 0 < len(message) <= LONGEST_MESSAGE and message.isprintable()


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TooLong` once the time is over."""

    def stop(number: int, frame: Any) -> None:
        raise TooLong(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak_memory() -> float:
    """Return the most memory that this process has had so far, in mebibytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def limit_memory(mebibytes: int) -> None:
    """Let this process claim no more than so much beyond what it has claimed so far."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + mebibytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
