"""Reading and writing files so that a damaged one is named and a half-written one never stands.

JSON in, JSON out, and the one way in which every file of a run is replaced: write beside it, flush to
the disk, rename.
"""

import contextlib
import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmnas.errors import DataError

PathLike = str | os.PathLike[str]


def read_json(path: PathLike, what: str = "file", error: type[ValueError] = DataError) -> Any:
    """Return the JSON value in `path`; `what` names the kind of file in the message.

    Raises `error` when the file is missing, unreadable, not UTF-8, malformed or nested too deep, or holds a
    number of thousands of digits.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise error(f"{what} not found: {path}") from None
    except OSError as exception:
        raise error(f"{what} cannot be read: {path}: {exception.strerror or exception}") from None
    except json.JSONDecodeError as exception:
        place = f"line {exception.lineno}, column {exception.colno}"
        raise error(f"{what} is not valid JSON: {path}, {place}: {exception.msg}") from None
    except UnicodeDecodeError as exception:
        raise error(f"{what} is not UTF-8 text: {path}: {exception.reason}") from None
    except RecursionError:
        raise error(f"{what} is nested too deep to be real: {path}") from None
    except ValueError as exception:  # a whole number longer than Python converts
        raise error(f"{what} is not usable: {path}: {exception}") from None


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8; JSON and pickles may smuggle in halves of characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Give a temporary path to write; on success rename it to `path`, on failure remove it.

    The old file survives every failure, a full disk included. What processes that were killed while they wrote
    that file have left is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_temporaries(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as exception:
        exception.filename = exception.filename or str(path)  # a failed write does not say of which file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: PathLike, name: str | None = None) -> None:
    """Remove unfinished files from `folder`: those of the file `name` whose process is no more, or all.

    All may only go while nothing else writes there.
    """
    for path in Path(folder).glob(f".{'*' if name is None else glob.escape(name)}.*.tmp"):
        process = path.name.split(".")[-2]
        if process.isdecimal() and (name is None or not _runs(int(process))):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether another process of that number runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return process != os.getpid()


def write_json(path: PathLike, value: Any, indent: int | None = None) -> None:
    """Write `value` as UTF-8 JSON to `path`, atomically."""
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=indent, ensure_ascii=False)
            file.write("\n")
