"""The exceptions that a user's own input can raise.

Each message stands alone in one line: what is wrong, in which file, key or flag, and what to do
about it. The command line prints that line and exits with code 2; a library user gets a ValueError.
"""


class MMNasError(ValueError):
    """Something that the user gave cannot be used; the message says what to do."""


class ConfigError(MMNasError):
    """A flag, a YAML key or a genotype is unknown, of the wrong type, or out of range."""


class DataError(MMNasError):
    """A data file is missing, damaged, or does not fit the others."""


class CheckpointError(MMNasError):
    """A checkpoint is damaged, of another task or size, or contradicts a flag."""


def one_line(exception: MMNasError | OSError) -> str:
    """Return what to tell the user: the message, or of a failed read or write the path and the reason."""
    if isinstance(exception, OSError):
        place = f"{exception.filename}: " if exception.filename is not None else ""
        return f"{place}{exception.strerror or exception}; check the path, its rights and the free space"
    return str(exception)
