"""Reading JSON with errors that name the file, and replacing files atomically.

Every file that a run writes is first written beside the old one, flushed to the disk, then renamed.
"""

import codecs
import contextlib
import glob
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from mmnas.errors import DataError
from mmnas.schema import describe_misfit

PathLike = str | os.PathLike[str]
Int64 = Annotated[int, msgspec.Meta(ge=1 - 2**63, le=2**63 - 1)]
"""An integer in a file that NumPy and PyTorch can hold."""
_BLOCK = 1 << 20  # bytes whose encoding is checked at a time


def read_bytes(path: PathLike, what: str = "file", error: type[ValueError] = DataError) -> bytes:
    """Return the content of `path`; `what` names the kind of file in the message when it cannot be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise error(f"{what} not found: {path}") from None
    except (OSError, ValueError) as exception:  # a ValueError for a path that no system has
        raise error(f"{what} cannot be read: {path}: {getattr(exception, 'strerror', None) or exception}") from None


def read_json(path: PathLike, what: str = "file", error: type[ValueError] = DataError, kind: Any = Any) -> Any:
    """Return the JSON value in `path`, decoded by msgspec as the type `kind`; `what` names the kind of file.

    The file is UTF-8, with or without a byte order mark. Raises `error` in one line when it is missing, unreadable,
    not UTF-8, malformed, nested too deeply, or does not fit `kind`: that message names the path in the value. NaN,
    infinite numbers and halves of characters are malformed; integers of any size pass where `kind` sets no limit.
    """
    content = read_bytes(path, what, error).removeprefix(codecs.BOM_UTF8)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise error(f"{what} is UTF-16 text: {path}: save it as UTF-8")
    try:
        _check_utf8(content)
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as exception:
        raise error(f"{what} has another format than expected: {path}: {describe_misfit(exception)}") from None
    except UnicodeDecodeError as exception:
        raise error(f"{what} is not UTF-8 text: {path}: {exception.reason}: save it as UTF-8") from None
    except msgspec.DecodeError as exception:
        raise error(f"{what} is not valid JSON: {path}, {_describe_syntax_error(content, exception)}") from None
    except RecursionError:
        raise error(f"{what} is nested too deeply: {path}") from None


def _check_utf8(content: bytes) -> None:
    """Raise UnicodeDecodeError for bytes that are not UTF-8; msgspec looks only at the strings that it returns."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(content), _BLOCK):  # in blocks, as the whole text could take four times the memory
        decoder.decode(content[start : start + _BLOCK])
    decoder.decode(b"", final=True)


def _describe_syntax_error(content: bytes, exception: msgspec.DecodeError) -> str:
    """Return msgspec's message with line and column instead of a byte."""
    found = re.fullmatch(r"(?:JSON is malformed: )?(.*) \(byte (\d+)\)", str(exception))
    cut_off = ("the file is cut off, or holds half of a character (a lone surrogate)", len(content))
    reason, offset = (found[1], int(found[2])) if found else cut_off
    line, column = content.count(b"\n", 0, offset) + 1, offset - content.rfind(b"\n", 0, offset)
    return f"line {line}, column {column}: {reason}"


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8; a pickle may hold halves of characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path to write to; on success rename it to `path`, on failure remove it.

    The old file survives every failure, a full disk included. Temporary files that killed processes left of this
    file are removed.
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
        exception.filename = exception.filename or str(path)  # a failed write does not name the file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: PathLike, name: str | None = None) -> None:
    """Remove the temporary files of `name` whose process has ended, or without a name all in `folder`.

    Without a name, nothing else may be writing there.
    """
    for path in Path(folder).glob(f".{'*' if name is None else glob.escape(name)}.*.tmp"):
        process = path.name.split(".")[-2]
        if process.isdecimal() and (name is None or not _runs(int(process))):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether another process with this id is running on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return process != os.getpid()


def write_json(path: PathLike, value: Any, indent: int | None = None) -> None:
    """Write `value` as UTF-8 JSON to `path`, atomically. Raises DataError for NaN and infinite numbers."""
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            try:
                json.dump(value, file, indent=indent, ensure_ascii=False, allow_nan=False)
            except UnicodeError:
                raise
            except ValueError:
                raise DataError(f"{path} is not written: it would hold NaN or an infinite number") from None
            file.write("\n")
