"""The exceptions for mistakes in what a user provides.

Each message is a single line: what is wrong, in which file, key or flag, and how to fix it. The command
line prints that line and exits with code 2; a caller of the library gets a `ValueError`.
"""

import sys


class MMNasError(ValueError):
    """Something the user provided cannot be used; the message says what to do."""


class ConfigError(MMNasError):
    """A flag, a YAML key or a genotype is unknown, of the wrong type, or out of range."""


class DataError(MMNasError):
    """A data file is missing, damaged, or inconsistent with the others."""


class CheckpointError(MMNasError):
    """A checkpoint is damaged, of another task or size, or contradicts a flag."""


def one_line(exception: MMNasError | OSError) -> str:
    """Return the message for the user; for a failed read or write, the path and the reason."""
    if isinstance(exception, OSError):
        path = f"{exception.filename}: " if exception.filename is not None else ""
        return f"{path}{exception.strerror or exception}; check the path, its permissions and the free disk space"
    return str(exception)


def require_posix() -> None:
    """End the program in one line where files cannot be locked, as on Windows; call it before other imports."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        sys.stderr.write("error: MMNas runs on Linux and macOS; on Windows, use WSL\n")
        raise SystemExit(2) from None
