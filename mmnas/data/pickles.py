"""Reading pickles from strangers: only plain containers, numbers and strings come out, and no code ever runs.

The published referring expressions are pickles of Python 2, whose strings carry no encoding. A pickle is a
program: its instructions are read first, and those by which a small file claims all memory are refused.
"""

import io
import pickle
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmnas.errors import DataError
from mmnas.files import PathLike, read_bytes
from mmnas.schema import INT_LIMIT

# Hashing a tuple recurses into nested tuples, and a hundred thousand levels overflow the stack of the interpreter.
# Hashes of integers are remainders, so keys can be chosen that all have the same one.
MAX_SLOW = 10_000
_CODES = {code.code.encode("latin-1"): code for code in pickletools.opcodes}
_NESTED = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"}
_MEMO = {"PUT", "BINPUT", "LONG_BINPUT"}


class _RefusedError(Exception):
    """What the pickle does that no file of plain values does."""


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that knows no class but `classes`: lists, tuples, dicts, sets, numbers and strings need none."""

    classes: Mapping[str, Callable[..., Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" in self.classes:
            return self.classes[f"{module}.{name}"]
        raise _RefusedError(f"asks for {module[:60]}.{name[:60]}: nothing in it was run")


def read_plain_pickle(
    path: PathLike, what: str = "file", classes: Mapping[str, Callable[..., Any]] | None = None
) -> Any:
    """Return the value pickled in `path`; `what` names the kind of file in the message.

    `classes` maps dotted names that the file may ask for, such as numpy.ndarray, to harmless classes of our own.
    Strings of Python 2 are decoded as UTF-8 or, where that fails, as Latin-1. Raises DataError when the file is
    missing or damaged, names any class or function, which the message repeats, or holds more than its size allows.
    """
    content = read_bytes(path, what)
    try:
        return _load(content, classes or {})
    except _RefusedError as exception:
        raise DataError(f"{path} {exception}; a {what} holds plain values only: get the original file") from None
    except Exception as exception:  # pickle raises many kinds for damaged bytes
        raise DataError(
            f"{path} is not a pickle, damaged or truncated ({type(exception).__name__}): copy the {what} again"
        ) from None


def _load(content: bytes, classes: Mapping[str, Callable[..., Any]]) -> Any:
    _check_instructions(content)
    try:
        value = _unpickled(content, "utf-8", classes)
    except UnicodeDecodeError:
        value = _unpickled(content, "latin1", classes)
    if unfolds_beyond(value, len(content)):
        raise _RefusedError("repeats its own content without end")
    return value


def _unpickled(content: bytes, encoding: str, classes: Mapping[str, Callable[..., Any]]) -> Any:
    unpickler = _PlainUnpickler(io.BytesIO(content), encoding=encoding)
    unpickler.classes = classes
    return unpickler.load()


def _check_instructions(content: bytes) -> None:
    """Raise for memo indices beyond the file's size, and for too many values that are slow to hash."""
    slow = 0
    for name, argument in _instructions(content):
        slow += name in _NESTED or (type(argument) is int and abs(argument) >= INT_LIMIT)
        if slow > MAX_SLOW:
            raise _RefusedError(f"holds more than {MAX_SLOW} tuples or numbers beyond 64 bits")
        if name in _MEMO and argument > len(content):
            raise _RefusedError(f"has a memo of {argument} values")


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
    """Whether containers, each counted every time it is reached, hold more than `limit` values in all.

    A file spends a byte on every value that it writes. It holds more values than bytes only if it names a container
    many times, or inside itself; a loop over those might never end.
    """
    pending = [value]
    while pending:
        container = pending.pop()
        if isinstance(container, dict):
            pending += [list(container), list(container.values())]
        elif isinstance(container, (list, tuple, set, frozenset)):
            limit -= len(container)
            if limit < 0:
                return True
            pending += [item for item in container if isinstance(item, (dict, list, tuple, set, frozenset))]
    return False
