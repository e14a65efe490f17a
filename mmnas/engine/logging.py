"""Where a run logs: terminal, log file, TensorBoard. Only rank 0 does, for all processes."""

import contextlib
import io
import logging
import os
import select
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from tqdm import tqdm

from mmnas.errors import safe

log = logging.getLogger(__name__)
LONGEST_LINE = 1 << 16
"""Characters; the configuration of a run is one line."""


class SafeTerminal:
    """Standard error that neither fails nor blocks.

    What it cannot take, because it is closed, full, or not read, is dropped; the log file notes the first time.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._patience = 1000  # milliseconds to wait for a reader; none once it has kept a line waiting

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)  # what tqdm asks for: the encoding, the width

    def flush(self) -> None:
        """Do nothing: no text is held back."""

    def write(self, text: str) -> None:
        """Write what can be written at once, characters that the terminal lacks as escapes."""
        data, poll = text.encode(self.encoding or "utf-8", "backslashreplace"), select.poll()
        try:
            poll.register(self.fileno(), select.POLLOUT)
            while data:
                if not poll.poll(self._patience):
                    raise OSError("it is not read")
                data = data[os.write(self.fileno(), data[: select.PIPE_BUF]) :]
        except io.UnsupportedOperation:  # not a file, as in a notebook
            self.stream.write(text)
        except OSError as exception:
            first, self._patience = self._patience, 0
            if first:
                reason = exception.strerror or exception
                log.debug("the terminal cannot be written (%s): such lines are dropped", reason)


def protect_terminal() -> None:
    """Let no state of the terminal stop this process: replaces standard error, and opens what was closed.

    A closed standard error would otherwise be the number of the next file that is opened.
    """
    while (null := os.open(os.devnull, os.O_RDONLY)) <= 2:
        pass
    os.close(null)
    stream: Any = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 open until the end
    sys.stderr = cast(TextIO, SafeTerminal(stream.stream if isinstance(stream, SafeTerminal) else stream))
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 open until the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def start_logging(rank: int, file: Path | None = None) -> None:
    """Send this package's log to the terminal and, with its details, to the end of `file`.

    Other ranks only report errors.
    """
    logger = logging.getLogger("mmnas")
    _drop_handlers(logging.Handler)
    logger.setLevel(logging.DEBUG if rank == 0 else logging.ERROR)
    logger.propagate = False
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores, as --NW says
    protect_terminal()
    terminal = _Terminal(logging.INFO)
    terminal.setFormatter(_Safe("%(message)s"))
    logger.addHandler(terminal)
    if rank == 0 and file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(file, encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(_Safe("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)


def drop_log_file() -> None:
    """Write no more to the log file."""
    _drop_handlers(_LogFile)


def _drop_handlers(kind: type[logging.Handler]) -> None:
    logger = logging.getLogger("mmnas")
    for handler in [handler for handler in logger.handlers if isinstance(handler, kind)]:
        logger.removeHandler(handler)
        handler.close()


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
    return tqdm(items, desc=safe(title), disable=rank != 0, dynamic_ncols=True, **watched, **options)


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
