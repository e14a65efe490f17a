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
