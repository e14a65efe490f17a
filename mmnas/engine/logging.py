"""Where a run logs: terminal, log file, TensorBoard. Only rank 0 does, for all processes."""

import contextlib
import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmnas.errors import safe

log = logging.getLogger(__name__)
LONGEST_LINE = 1 << 16
"""Characters; the configuration of a run is one line."""


def start_logging(rank: int, file: Path | None = None) -> None:
    """Send this package's log to the terminal and, with its details, to the end of `file`.

    Other ranks only report errors.
    """
    logger = logging.getLogger("mmnas")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG if rank == 0 else logging.ERROR)
    logger.propagate = False
    terminal = _Terminal(logging.INFO)
    terminal.setFormatter(_Safe("%(message)s"))
    logger.addHandler(terminal)
    if rank == 0 and file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(file, encoding="utf-8")
        handler.setFormatter(_Safe("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)


class _Safe(logging.Formatter):
    """Makes each record one printable line, whatever names from files it holds."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that `logging` calls
        return safe(super().formatMessage(record), LONGEST_LINE)


class _LogFile(logging.FileHandler):
    """Warns once when the disk fails; the run continues without it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name that `logging` calls
        logging.getLogger("mmnas").removeHandler(self)
        self.close()
        log.warning("%s cannot be written (%s); continuing without it", self.baseFilename, sys.exc_info()[1])

    def close(self) -> None:
        with contextlib.suppress(OSError):  # from the lines that could not be written
            super().close()


class _Terminal(logging.Handler):
    """Writes through tqdm, so that a line never breaks a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def progress(items: Iterable[Any] | None, title: str, rank: int, **options: Any) -> tqdm:
    """Return a progress bar with rate and time left; silent on other ranks, rarely updated in a log file."""
    watched: dict[str, Any] = {"mininterval": 0.2} if sys.stderr.isatty() else {"mininterval": 30.0, "delay": 5.0}
    return tqdm(items, desc=title, disable=rank != 0, dynamic_ncols=True, **watched, **options)


class Scalars:
    """TensorBoard events of one run; writes nothing on other ranks, nor after the disk has failed once."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._writer = folder, None
        if rank == 0:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, needed by training only

            threading.excepthook = _quiet_about_files
            with self._surviving_the_disk():
                self._writer = SummaryWriter(str(folder))

    def add(self, values: dict[str, float], step: int) -> None:
        """Write each value under its name at the optimizer step."""
        with self._surviving_the_disk():
            for name, value in values.items():
                if self._writer is not None:
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the events to disk."""
        with self._surviving_the_disk():
            if self._writer is not None:
                self._writer.close()

    @contextlib.contextmanager
    def _surviving_the_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as exception:
            self._writer = None
            log.warning("%s cannot be written (%s); continuing without it", self._folder, exception)


def _quiet_about_files(failure: threading.ExceptHookArgs) -> None:
    """Leave it to `Scalars` to say that TensorBoard's thread could not write; show all else."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)
