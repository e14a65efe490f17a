"""One learning run per version: a lock on its folder, with the process and host that hold it.

The lock is the operating system's and ends with its process, however that ends. The file's text serves messages,
and runs on other hosts that share the folder by a file system without such locks.
"""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mmnas.errors import ConfigError
from mmnas.files import remove_temporaries

NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a version's folder. Raises `ConfigError` naming who holds it.

    The lock of a run that died is taken over, and its unfinished files are removed; on another host it cannot be
    told from one that runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the two ways to say that it is held
            holder = _holder(file)
            raise ConfigError(
                f"{folder} is in use by {_name(holder)}: wait for its end, or choose another --VERSION"
            ) from None
        holder = _holder(file)
        if holder and holder.get("host") != socket.gethostname():  # locks may not reach as far as the folder does
            raise ConfigError(
                f"{folder} is in use by {_name(holder)}: wait for its end, or delete {path} if it is no more"
            )
        _write(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        remove_temporaries(folder)
        try:
            yield
        finally:
            _write(file, "")


def _holder(file: TextIO) -> dict[str, Any]:
    """Return what the file says of its holder; nothing where it is empty or no text of ours."""
    file.seek(0)
    try:
        value = json.loads(file.read(1000) or "{}")
    except ValueError:
        value = {}
    return value if isinstance(value, dict) else {}


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder.get('host')}" if "pid" in holder else "another run"


def _write(file: TextIO, text: str) -> None:
    with contextlib.suppress(OSError):  # on a full disk the lock itself still holds
        file.seek(0)
        file.truncate()
        file.write(text)
        file.flush()
