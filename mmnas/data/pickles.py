"""Reading pickles of strangers: plain containers, numbers and strings come out, no code ever runs.

The published referring expressions are pickles of Python 2, whose strings carry no encoding.
"""

import io
import pickle
from pathlib import Path
from typing import Any

from mmnas.errors import DataError
from mmnas.files import PathLike


class _ForbiddenClassError(Exception):
    """The pickle asks for a class or function; the message is its name."""


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler to which no class exists: lists, tuples, dicts, sets, numbers, strings need none."""

    def find_class(self, module: str, name: str) -> Any:
        raise _ForbiddenClassError(f"{module}.{name}")


def read_plain_pickle(path: PathLike, what: str = "file") -> Any:
    """Return the value pickled in `path`; `what` names the kind of file in the message.

    Strings of Python 2 are taken as UTF-8, or as Latin-1 where they are none. Raises DataError when the
    file is missing or damaged, or names any class or function, which the message repeats.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{what} not found: {path}") from None
    except OSError as exception:
        raise DataError(f"{what} cannot be read: {path}: {exception.strerror or exception}") from None
    try:
        try:
            return _PlainUnpickler(io.BytesIO(content), encoding="utf-8").load()
        except UnicodeDecodeError:
            return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except _ForbiddenClassError as exception:
        raise DataError(
            f"{path} asks for {exception}: a {what} holds plain containers, numbers and strings only; "
            "nothing in it was run, get the original file"
        ) from None
    except Exception as exception:  # pickle raises many kinds for damaged bytes
        raise DataError(
            f"{path} is no pickle, or damaged or truncated ({type(exception).__name__}); copy the {what} again"
        ) from None
