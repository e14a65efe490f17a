"""Writing a packed store: images are committed some at a time, each commit with its part of the manifest.

A run that was stopped goes on behind its last commit; the store counts as unfinished until `finish` is called.
"""

import dataclasses
import fcntl
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import lmdb
import numpy as np

from mmnas.data.feature_files import FeatureFile
from mmnas.data.packed import map_of, open_environment, pack_command, whole_size
from mmnas.data.packed_format import (
    ENTRY,
    HEADER_KEY,
    READERS,
    WIDTHS,
    Header,
    commit_keys,
    damaged,
    encode_regions,
    image_key,
    read_entries,
    read_header,
    read_names,
)
from mmnas.errors import DataError

_COMMIT_IMAGES, _COMMIT_BYTES = 256, 64 * 2**20
_FIRST_MAP = 2**30  # bytes; doubled whenever the store has filled it


class StoreWriter:
    """A store that is being packed: what is in it, and what is not committed yet."""

    def __init__(self, path: Path, header: Header, names: dict[int, str]) -> None:
        self.path, self.header = path, header
        self._names = names  # image id -> where it came from, of all images of the store
        self._met: set[int] = set()
        self._values: dict[bytes, bytes] = {}
        self._entries: list[tuple[int, int, int]] = []
        self._environment = lmdb.open(str(path), subdir=False, lock=False, max_dbs=0, map_size=_FIRST_MAP)

    @classmethod
    @contextmanager
    def open(cls, path: Path, wanted: Header) -> Iterator["StoreWriter"]:
        """Open a store begun as `wanted`, or a new one; `wanted` may leave kind and width to the first image.

        At the end, also after an error or Ctrl-C, what was added is committed. Raises DataError when another
        process packs into the file, or it is anything but a store of the same sources, type and width.
        """
        with _held(path):
            header, names = _begun(path, wanted) if path.stat().st_size else (wanted, {})
            writer = cls(path, header, names)
            try:
                yield writer
            finally:
                writer.close()

    def add(self, file: FeatureFile) -> None:
        """Add an image unless a former run did. Raises DataError when another file has the same image."""
        other = self._names.get(file.image_id)
        if file.image_id in self._met or other not in (None, file.name):
            raise DataError(f"image {file.image_id} is in {other} and in {file.name}: leave one of the two out")
        self._met.add(file.image_id)
        if other is None:
            with file.open() as opened:
                self._pack(file, opened)

    def _pack(self, file: FeatureFile, opened: BinaryIO) -> None:
        if not self.header.kind:
            kind = _kind_in(opened)
            size = self.header.feature_size or WIDTHS[kind]
            self.header = dataclasses.replace(self.header, kind=kind, feature_size=size)
        opened.seek(0)
        regions = READERS[self.header.kind](file.name, self.header.feature_size, opened)
        value = encode_regions(regions, self.header, file.name)
        self._values[image_key(file.image_id)] = value
        self._entries.append((file.image_id, len(regions.boxes), zlib.crc32(value)))
        self._names[file.image_id] = file.name
        if len(self._values) >= _COMMIT_IMAGES or sum(map(len, self._values.values())) >= _COMMIT_BYTES:
            self.commit()

    def commit(self) -> None:
        """Write what was added since the last commit, and its part of the manifest."""
        if not self._entries:
            return
        entries = np.array(self._entries, ENTRY)
        names = [self._names[image_id] for image_id, _, _ in self._entries]
        entries_key, names_key = commit_keys(self.header.commits)
        manifest = {entries_key: entries.tobytes(), names_key: json.dumps(names).encode()}
        header = self.header.after(entries)
        self._put({**self._values, **manifest, HEADER_KEY: header.encode()})
        self.header, self._values, self._entries = header, {}, []

    def finish(self) -> None:
        """Commit the rest and mark the store as finished."""
        self.commit()
        self.header = dataclasses.replace(self.header, finished=True)
        self._put({HEADER_KEY: self.header.encode()})

    def close(self) -> None:
        """Commit the rest and close the file; one without any image is removed."""
        try:
            self.commit()
        finally:
            whole = whole_size(self._environment)
            self._environment.close()
            if self.header.commits:
                os.truncate(self.path, whole)
            else:
                self.path.unlink()

    def _put(self, values: dict[bytes, bytes]) -> None:
        """Write records in one transaction, all or none. Raises DataError when the disk does not take them."""
        room = 2 * sum(map(len, values.values())) + 2**20  # values take whole pages
        while True:
            try:
                os.truncate(self.path, whole_size(self._environment) + room)  # whole even if killed in a commit
                with self._environment.begin(write=True) as transaction:
                    for key, value in values.items():
                        transaction.put(key, value)
                return
            except lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
            except (lmdb.Error, OSError) as exception:
                self._values, self._entries = {}, []  # nothing more can be written
                raise DataError(
                    f"{self.path} cannot be written ({exception}); free space on its disk and run the command "
                    f"again: it goes on behind the {self.header.images} images that are packed"
                ) from None


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Make the file unless it is there, and keep other processes from packing into it."""
    if path.suffix != ".lmdb" or path.is_dir():
        raise DataError(f"{path} is no name for a store: the last argument is the file to write, such as out.lmdb")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{path} is being packed by another process: wait until it is done") from None
        yield


def _never_committed(path: Path) -> bool:
    """Whether a process was killed between making the store and its first commit; it is two pages long then."""
    try:
        with lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=0) as environment:
            status = environment.stat()
    except lmdb.Error:
        return False
    return path.stat().st_size == 2 * status["psize"] and not status["entries"]


def _begun(path: Path, wanted: Header) -> tuple[Header, dict[int, str]]:
    """Return the header of a store that is there, and where each image came from; DataError unless as `wanted`."""
    if _never_committed(path):
        return wanted, {}
    map_of(path).close()  # an error may keep a former reader alive, and LMDB opens a file once in a process
    environment = open_environment(path)
    try:
        with environment.begin() as transaction:
            if not transaction.stat()["entries"]:
                return wanted, {}
            header = read_header(transaction, path)
            entries = read_entries(transaction, header, path)
            names = list(read_names(transaction, header, path))
    except lmdb.Error as exception:
        raise damaged(path, str(exception)) from None
    finally:
        environment.close()
    size = wanted.feature_size or header.feature_size
    if (header.sources, header.dtype, header.feature_size) != (wanted.sources, wanted.dtype, size):
        raise DataError(
            f"{path} is of other sources, type or width; name another file, delete it, or go on with it by: "
            f"{pack_command(header, path)}"
        )
    if len(names) != len(entries):
        raise damaged(path, f"{len(names)} names for {len(entries)} images")
    return header, dict(zip(entries["image"].tolist(), names, strict=True))


def _kind_in(opened: BinaryIO) -> str:
    """Recognise the kind of features by the file's keys; the reader of "x" says what is wrong with other files."""
    try:
        with zipfile.ZipFile(opened) as archive:
            keys = {name.removesuffix(".npy") for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError):
        return "x"
    return next((kind for kind in READERS if set(kind.split("+")) <= keys), "x")
