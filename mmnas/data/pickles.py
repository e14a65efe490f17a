"""Reading pickles of strangers: plain containers, numbers and strings come out, no code ever runs.

The published referring expressions are pickles of Python 2, whose strings carry no encoding. A pickle is a
program: its instructions are read first, and those by which a small one claims all memory are refused.
"""

import io
import pickle
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmnas.errors import DataError
from mmnas.files import PathLike
from mmnas.schema import INT_LIMIT

# The hash of a tuple runs down all that are nested in it, and a hundred thousand overflow the interpreter's
# stack; the hashes of whole numbers are remainders, and keys can be chosen that have the same one.
MAX_SLOW = 10_000
_CODES = {code.code.encode("latin-1"): code for code in pickletools.opcodes}
_NESTED = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"}
_PLACES = {"PUT", "BINPUT", "LONG_BINPUT"}


class _ForbiddenClassError(Exception):
    """The pickle asks for a class or function; the message is its name."""


class _EndlessError(Exception):
    """The pickle is small and what it makes is not; the message says how."""


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler to which no class exists: lists, tuples, dicts, sets, numbers, strings need none."""

    def find_class(self, module: str, name: str) -> Any:
        raise _ForbiddenClassError(f"{module[:60]}.{name[:60]}".encode("unicode_escape").decode())


def read_plain_pickle(path: PathLike, what: str = "file") -> Any:
    """Return the value pickled in `path`; `what` names the kind of file in the message.

    Strings of Python 2 are taken as UTF-8, or as Latin-1 where they are none. Raises DataError when the
    file is missing or damaged, names any class or function, which the message repeats, or makes more than
    its size allows for.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{what} not found: {path}") from None
    except OSError as exception:
        raise DataError(f"{what} cannot be read: {path}: {exception.strerror or exception}") from None
    try:
        return _load(content)
    except _ForbiddenClassError as exception:
        raise DataError(
            f"{path} asks for {exception}: a {what} holds plain containers, numbers and strings only; "
            "nothing in it was run, get the original file"
        ) from None
    except _EndlessError as exception:
        raise DataError(f"{path} {exception}: no {what} does; get the original file") from None
    except Exception as exception:  # pickle raises many kinds for damaged bytes
        raise DataError(
            f"{path} is no pickle, or damaged or truncated ({type(exception).__name__}); copy the {what} again"
        ) from None


def _load(content: bytes) -> Any:
    _check_instructions(content)
    try:
        value = _PlainUnpickler(io.BytesIO(content), encoding="utf-8").load()
    except UnicodeDecodeError:
        value = _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    if unfolds_beyond(value, len(content)):
        raise _EndlessError("repeats what it holds without end")
    return value


def _check_instructions(content: bytes) -> None:
    """Raise for numbered places beyond the file's size, and for too many values that are slow to hash."""
    slow = 0
    for name, argument in _instructions(content):
        slow += name in _NESTED or (type(argument) is int and abs(argument) >= INT_LIMIT)
        if slow > MAX_SLOW:
            raise _EndlessError(f"holds more than {MAX_SLOW} tuples or numbers beyond 64 bits")
        if name in _PLACES and argument > len(content):
            raise _EndlessError(f"numbers a value {argument}")


def _instructions(content: bytes) -> Iterator[tuple[str, Any]]:
    """Yield name and argument of each instruction; `pickletools.genops` stops at a string that is not ASCII."""
    stream, name = io.BytesIO(content), ""
    while name != "STOP":
        code = _CODES[stream.read(1)]
        name, argument = code.name, None
        if name == "STRING":
            stream.readline()
        elif code.arg is not None:
            argument = code.arg.reader(stream)
        yield name, argument


def unfolds_beyond(value: Any, limit: int) -> bool:
    """Whether containers, each counted as often as it is met, hold more than `limit` values in all.

    A file spends a byte on every value that it writes; only by naming a container many times, or within
    itself, does it hold more values than bytes. A loop over those would never end.
    """
    pending = [value]
    while pending:
        inner = list(_inside(pending.pop()))
        limit -= len(inner)
        if limit < 0:
            return True
        pending += [item for item in inner if isinstance(item, (dict, list, tuple, set, frozenset))]
    return False


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
