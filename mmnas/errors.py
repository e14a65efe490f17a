"""The exceptions for mistakes in what a user provides, and how text from files is made safe to print.

Each message is a single line: what is wrong, in which file, key or flag, and how to fix it. The command
line prints that line and exits with code 2; a caller of the library gets a `ValueError`.
"""

import errno
import re
import sys

_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|Storage size calculation overflowed")  # of torch
_REMEDIES = {
    errno.EADDRINUSE: "choose another port",
    errno.EAGAIN: "raise the limit of processes (ulimit -u)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOMEM: "free some memory",
}
LONGEST = 2000
"""Characters of a message. Its middle is left out first: the file is named at its start, the remedy at its end."""


JOINERS = "\u200c\u200d"
"""They join or part letters, as in Persian and Hindi, and emoji: pages and pictures keep them."""


def safe(text: object, longest: int = LONGEST, kept: str = "") -> str:
    """Return `text` for a terminal or a log: one line, at most `longest` characters, all of them printable.

    Line ends, escape sequences, marks that change the direction of text and halves of characters are escaped,
    but not what is in `kept`.
    """
    text = _shortened(str(text), longest)
    if not text.isprintable():
        letters = (c if c.isprintable() or c in kept else c.encode("unicode_escape").decode("ascii") for c in text)
        text = _shortened("".join(letters), longest)
    return text


def _shortened(text: str, longest: int) -> str:
    end = longest // 4
    return text if len(text) <= longest else f"{text[: longest - end - 5]} ... {text[-end:]}"


class MMNasError(ValueError):
    """Something the user provided cannot be used; the message says what to do."""

    def __str__(self) -> str:
        return safe(super().__str__())


class ConfigError(MMNasError):
    """A flag, a YAML key or a genotype is unknown, of the wrong type, or out of range."""


class DataError(MMNasError):
    """A data file is missing, damaged, or inconsistent with the others."""


class MissingData(DataError):
    """Data files are not where they should be."""


class CheckpointError(MMNasError):
    """A checkpoint is damaged, of another task or size, or contradicts a flag."""


def one_line(exception: Exception) -> str:
    """Return the message for the user. Raises an exception again that neither the user nor the system caused."""
    if isinstance(exception, OSError):
        path = f"{exception.filename}: " if exception.filename is not None else ""
        reason = exception.strerror or exception
        remedy = _REMEDIES.get(exception.errno or 0, "check the path, its permissions and the free disk space")
        return safe(f"{path}{reason}; {remedy}")
    if isinstance(exception, MemoryError) or _NO_MEMORY.search(str(exception)):
        remedy = "use a smaller --BS, --NW or model, or --FEATURES=stream"
        return safe(f"memory ran out; {remedy} ({type(exception).__name__}: {exception})")
    if str(exception).startswith("Symlink loop"):  # of pathlib before Python 3.13
        return safe(f"{exception}: remove the link")
    if not isinstance(exception, MMNasError):
        raise exception
    return str(exception)


def require_posix() -> None:
    """End the program in one line where files cannot be locked, as on Windows; call it before other imports."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        sys.stderr.write("error: MMNas runs on Linux and macOS; on Windows, use WSL\n")
        raise SystemExit(2) from None
