"""One learning run per version: a lock on its folder, with the process and host that hold it.

The lock is the operating system's and ends with its process, however that ends. The file's text serves messages,
and runs on other hosts that share the folder by a file system without such locks.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mmnas.errors import ConfigError
from mmnas.files import remove_empty, remove_temporaries

NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a version's folder. Raises `ConfigError` naming who holds it.

    The lock of a run that died is taken over, and its unfinished files are removed; on another host it cannot be
    told from one that runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    with _open(path) as file, _claimed(folder) as free:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the two ways to say that it is held
            free = False
        holder = _holder(file)
        if not free:
            raise ConfigError(
                f"{folder} is in use by {_name(holder)}: wait for its end, or choose another --VERSION"
            )
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
            if os.listdir(folder) == [NAME]:  # the run has written nothing
                path.unlink()
                remove_empty(folder)


def _open(path: Path) -> TextIO:
    """Open the lock file. Raises `ConfigError` for a link or anything else that is not a file of its own."""
    fault = ConfigError(f"{path} is not the plain file that a run writes there: delete it")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as exception:
        raise fault if exception.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR) else exception from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise fault
    return os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace")


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Claim the folder's path on this machine; false while another process holds it.

    On Linux the claim is a socket's name, which stays when the lock file or the folder is deleted.
    """
    if sys.platform != "linux":
        yield True
        return
    space = os.readlink("/proc/self/ns/mnt")  # in another container the same path is another folder
    name = hashlib.sha256(os.fsencode(f"{space} {folder.resolve()}")).hexdigest()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        os.register_at_fork(after_in_child=claim.close)  # workers that outlive a killed run must not hold it
        try:
            claim.bind(f"\0mmnas lock {name}")
        except OSError as exception:
            yield exception.errno != errno.EADDRINUSE
        else:
            yield True


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
