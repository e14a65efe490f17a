"""Reading text and JSON with errors that name the file, and replacing files atomically.

Every file that a run writes is first written beside the old one, flushed to the disk, then renamed.
"""

import codecs
import contextlib
import errno
import glob
import hashlib
import json
import logging
import mmap
import os
import re
import shutil
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec

from mmnas.errors import DataError
from mmnas.schema import describe_misfit, shown

PathLike = str | os.PathLike[str]
Int64 = Annotated[int, msgspec.Meta(ge=1 - 2**63, le=2**63 - 1)]
"""An integer in a file that NumPy and PyTorch can hold."""
_BLOCK = 1 << 20  # bytes whose encoding is checked at a time
LARGEST_CHECKED = 1 << 27
"""Bytes of JSON up to which keys are checked for repetition, at about 100 MB per second."""

log = logging.getLogger(__name__)


def open_regular(path: PathLike) -> BufferedReader:
    """Open a file to read. Raises `OSError` for a pipe or a device, of which reading might never end."""
    if not stat.S_ISREG(mode := os.stat(path).st_mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(path, "rb")


def read_bytes(path: PathLike, what: str = "file", error: type[ValueError] = DataError, limit: int = -1) -> bytes:
    """Return the content of `path`, or its first `limit` bytes. Raises `error` naming it and `what` kind it is."""
    try:
        with open_regular(path) as file:
            return file.read(limit)
    except FileNotFoundError:
        raise error(f"{what} not found: {path}") from None
    except (OSError, ValueError) as exception:  # a ValueError for a path that no system has
        raise error(f"{what} cannot be read: {path}: {getattr(exception, 'strerror', None) or exception}") from None


def read_utf8(path: PathLike, what: str = "file", error: type[ValueError] = DataError, limit: int = -1) -> bytes:
    """Return the bytes of a text file without its byte order mark. Raises `error` for anything but UTF-8.

    They are decoded in blocks to check them, as the text of a whole file can take four times the memory.
    """
    content = read_bytes(path, what, error, limit)
    content = content[mark_length(content, path, what, error) :]
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(content), _BLOCK):
        try:
            decoder.decode(content[start : start + _BLOCK], final=start + _BLOCK >= len(content))
        except UnicodeDecodeError as exception:
            line = content.count(b"\n", 0, start) + exception.object.count(b"\n", 0, exception.start) + 1
            reason = f"{path}, line {line}: {exception.reason}"
            raise error(f"{what} is not UTF-8 text: {reason}: save it as UTF-8") from None
    return content


def mark_length(start: bytes, path: PathLike, what: str = "file", error: type[ValueError] = DataError) -> int:
    """Return the length of the byte order mark that UTF-8 text starts with. Raises `error` for UTF-16."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in start[:4]:
        raise error(f"{what} is UTF-16 text: {path}: save it as UTF-8")
    return len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0


def read_json(path: PathLike, what: str = "file", error: type[ValueError] = DataError, kind: Any = Any) -> Any:
    """Return the JSON value in `path`, decoded by msgspec as the type `kind`; `what` names the kind of file.

    The file is UTF-8, with or without a byte order mark. Raises `error` in one line when it is missing, unreadable,
    not UTF-8, malformed, nested too deeply, or does not fit `kind`: that message names the path in the value. NaN,
    infinite numbers and halves of characters are malformed; in files up to `LARGEST_CHECKED` bytes, so is a key
    that occurs twice in one object. Integers of any size pass where `kind` sets no limit.
    """
    content = read_utf8(path, what, error)
    try:
        value = msgspec.json.decode(content, type=kind)
        if len(content) <= LARGEST_CHECKED and (key := repeated_key(content)) is not None:
            raise error(f"{what} holds the key {shown(key)} twice in one object: {path}: remove one")
        return value
    except msgspec.ValidationError as exception:
        raise error(f"{what} has another format than expected: {path}: {describe_misfit(exception)}") from None
    except msgspec.DecodeError as exception:
        raise error(f"{what} is not valid JSON: {path}, {_describe_syntax_error(content, exception)}") from None
    except RecursionError:
        raise error(f"{what} is nested too deeply: {path}") from None


def repeated_key(content: bytes | msgspec.Raw) -> str | None:
    """Return a key that some object of a JSON text holds twice, or None; msgspec would take the last of them."""
    repeated = []

    def check(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.append(next(name for name in names if names.count(name) > 1))

    json.loads(bytes(content), object_pairs_hook=check, parse_int=str, strict=False)
    return repeated[0] if repeated else None


def _describe_syntax_error(content: bytes, exception: msgspec.DecodeError) -> str:
    """Return msgspec's message with line and column instead of a byte."""
    found = re.fullmatch(r"(?:JSON is malformed: )?(.*) \(byte (\d+)\)", str(exception))
    cut_off = ("the file is cut off, or holds half of a character (a lone surrogate)", len(content))
    reason, offset = (found[1], int(found[2])) if found else cut_off
    line, column = content.count(b"\n", 0, offset) + 1, offset - content.rfind(b"\n", 0, offset)
    return f"line {line}, column {column}: {reason}"


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8; a pickle may hold halves of characters."""
    return re.search("[\ud800-\udfff]", text) is None


def opened_again(shared: BinaryIO, path: PathLike, error: type[ValueError] = DataError) -> BinaryIO:
    """Return an open file with a position of its own; processes that share one read each other's bytes.

    Raises `error` where the system finds the file by `path` alone, and another one is there by now.
    """
    same = f"/proc/self/fd/{shared.fileno()}"
    file = open(same if os.path.exists(same) else path, "rb")  # noqa: SIM115, it is what is returned
    if not os.path.sameopenfile(file.fileno(), shared.fileno()):
        raise error(f"{path} was replaced while the run started: start it again")
    return file


def sha256_of(file: BinaryIO) -> str:
    """Return the SHA-256 of an open file's bytes, also when its name is gone or stands for another file by now."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def writing_cache(path: PathLike) -> Iterator[None]:
    """Warn instead of failing when a file that only saves time cannot be written."""
    try:
        yield
    except OSError as exception:
        log.warning("%s cannot be written (%s); it will be computed every time", path, exception.strerror)


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path to write to; on success rename it to `path`, on failure remove it.

    The old file survives every failure, a full disk included. Temporary files that killed processes left of this
    file are removed.
    """
    path = Path(path)
    if os.path.exists(path) and not path.is_file():  # a device would be gone for all programs
        raise OSError(errno.EINVAL, "not a file that can be replaced", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_temporaries(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as exception:
        if exception.filename in (None, str(temporary)):  # a failed write does not name the file
            exception.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: PathLike, name: str | None = None) -> None:
    """Remove the temporary files or folders of `name` whose process has ended, or without a name all in `folder`.

    Without a name, nothing else may be writing there.
    """
    for path in Path(folder).glob(f".{'*' if name is None else glob.escape(name)}.*.tmp"):
        process = path.name.split(".")[-2]
        if process.isdecimal() and (name is None or not _runs(int(process))):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


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
    """Write `value` as UTF-8 JSON to `path`, atomically. Raises DataError for NaN and infinite numbers.

    "?" replaces what a path holds that is not UTF-8.
    """
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8", errors="replace") as file:
            try:
                json.dump(value, file, indent=indent, ensure_ascii=False, allow_nan=False)
            except ValueError:
                raise DataError(f"{path} is not written: it would hold NaN or an infinite number") from None
            file.write("\n")


def remove_empty(folder: Path) -> None:
    """Remove a folder and the two above it, as far as they are empty."""
    with contextlib.suppress(OSError):  # of the first that is not
        for each in (folder, *folder.parents[:2]):
            each.rmdir()
