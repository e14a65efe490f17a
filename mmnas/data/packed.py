"""Region features out of one packed store (LMDB), for as many processes as read it.

Arrays are parts of the mapped file: nothing is copied, and all processes of a machine share its pages. Pages once
read count as memory of the reader, so the file is mapped anew now and then, whenever no array is in use.
"""

import shlex
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lmdb
import numpy as np

from mmnas.data.features import Reader, Regions, RegionSource, read_npz
from mmnas.data.packed_format import (
    READERS,
    TAIL,
    Header,
    damaged,
    decode_regions,
    image_key,
    read_entries,
    read_header,
    value_size,
)
from mmnas.errors import DataError
from mmnas.files import PathLike

# The file is mapped anew after this many bytes have been read.
_MAPPED = 128 * 2**20


class PackedFeatures:
    """A store made by `python -m mmnas pack-features`, read image by image.

    Pickles as its path. Raises DataError naming the file and the remedy when it is damaged, unfinished, or does
    not hold features of `kind` (a key of `READERS`) and `feature_size`.
    """

    def __init__(self, path: PathLike, feature_size: int, kind: str = "x") -> None:
        self.path = Path(path)
        self._map = map_of(self.path)
        with self._map.transaction() as transaction:
            self.header = read_header(transaction, self.path)
            require_finished(self.header, self.path)
            entries = read_entries(transaction, self.header, self.path)
        if (kind, feature_size) != (self.header.kind, self.header.feature_size):
            raise DataError(
                f"{self.path} holds {self.header.kind} features of width {self.header.feature_size}, needed are "
                f"{kind} of {feature_size}: name another store by --FEAT_PATH, or its kind by --FEAT"
            )
        entries.sort(order="image")
        self._image_ids = entries["image"].copy()  # ascending
        self._regions = entries["regions"].copy()

    def __reduce__(self) -> tuple:
        return PackedFeatures, (self.path, self.header.feature_size, self.header.kind)

    def __contains__(self, image_id: int) -> bool:
        place = np.searchsorted(self._image_ids, image_id)
        return bool(place < len(self) and self._image_ids[place] == image_id)

    def __len__(self) -> int:
        return len(self._image_ids)

    def __getitem__(self, image_id: int) -> Regions:
        if image_id not in self:
            raise DataError(f"no region features for image {image_id}; looked in {self.describe()}")
        regions = int(self._regions[np.searchsorted(self._image_ids, image_id)])
        value = self._map.read(image_key(image_id))
        if value is None or len(value) != value_size(regions, self.header):
            raise damaged(self.path, f"image {image_id} is missing or cut")
        return decode_regions(value, regions, self.header)

    def region_counts(self, image_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return how many regions each image has, without reading features; DataError for one that is not there."""
        wanted = np.asarray(image_ids, np.int64)
        places = np.searchsorted(self._image_ids, wanted).clip(max=len(self) - 1)
        missing = self._image_ids[places] != wanted
        if missing.any():
            raise DataError(f"no region features for image {wanted[missing.argmax()]}; looked in {self.path}")
        return self._regions[places]

    def describe(self) -> str:
        """Return the path."""
        return str(self.path)


def packed_at(path: PathLike | None, feature_size: int, read: Reader = read_npz) -> PackedFeatures | None:
    """Return the store that `path` names, of the kind that `read` reads; None when `path` is no file."""
    if path is None or not Path(path).is_file():
        return None
    kind = next(name for name, reader in READERS.items() if reader is read)
    return PackedFeatures(path, feature_size, kind)


def region_counts(source: RegionSource, image_ids: Sequence[int] | np.ndarray, most: int) -> np.ndarray | None:
    """Return how many regions, at most `most`, each image has; None where the source would have to read them."""
    counts = getattr(source, "region_counts", None)
    return None if counts is None else np.minimum(counts(image_ids), most)


def require_finished(header: Header, path: Path) -> None:
    """Raise DataError with the command that finishes the store, unless it is finished."""
    if not header.finished:
        raise DataError(
            f"{path} is unfinished, {header.images} images are in it; finish it by: {pack_command(header, path)}"
        )


def pack_command(header: Header, path: Path) -> str:
    """Return the command that a store is packed with."""
    flags = ["--dtype", header.dtype, "--feature-size", str(header.feature_size)]
    return "python -m mmnas pack-features " + shlex.join([*header.sources, str(path), *flags])


class StoreMap:
    """A store mapped into this process, without locks: nothing writes into one that is finished.

    A forked process may go on using it. LMDB allows one for each file in a process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._in_use = 0  # values that were returned and live
        self._bytes_read = 0
        self._environment: lmdb.Environment | None = None

    def read(self, key: bytes) -> np.ndarray | None:
        """Return a value (bytes,), which is part of the map, or None. Raises DataError for a damaged store."""
        with self.transaction() as transaction:
            raw = transaction.get(key)
            if raw is None:
                return None
            value = np.frombuffer(raw, np.uint8)
            self._in_use += 1
            self._bytes_read += len(value)
            weakref.finalize(value, self._release).atexit = False
            return value

    def close(self) -> None:
        """Close the file unless an array is in use; the next read opens it again."""
        with self._lock:
            if self._environment is not None and not self._in_use:
                self._transaction.abort()
                self._environment.close()
                self._environment, self._bytes_read = None, 0

    def _release(self) -> None:
        with self._lock:
            self._in_use -= 1

    @contextmanager
    def transaction(self) -> Iterator[lmdb.Transaction]:
        """Give the transaction that reads; LMDB's errors become DataError."""
        with self._lock:
            try:
                if self._bytes_read > _MAPPED:
                    self.close()
                if self._environment is None:
                    self._environment = open_environment(self.path)
                    self._transaction = self._environment.begin(buffers=True)
                yield self._transaction
            except lmdb.Error as exception:
                raise damaged(self.path, str(exception)) from None


def open_environment(path: Path) -> lmdb.Environment:
    """Open a store to read. Raises DataError when it is no LMDB file or cut.

    The system reads ahead, for a value has many pages; each would be fetched alone otherwise.
    """
    try:
        environment = lmdb.open(
            str(path), subdir=False, readonly=True, lock=False, max_dbs=0, map_size=path.stat().st_size
        )
    except lmdb.Error as exception:
        raise DataError(
            f"{path} cannot be opened as a store ({exception}); make one by python -m mmnas pack-features"
        ) from None
    whole, size = whole_size(environment), path.stat().st_size
    if size < whole:  # what lies behind the end must never be touched
        environment.close()
        raise DataError(
            f"{path} is cut ({size} bytes of {whole}) or no store of region features; copy it again, or make it by "
            "python -m mmnas pack-features"
        )
    return environment


def whole_size(environment: lmdb.Environment) -> int:
    """Return the bytes that the file of a store has."""
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"] + TAIL


_MAPS: "weakref.WeakValueDictionary[tuple[int, int], StoreMap]" = weakref.WeakValueDictionary()


def map_of(path: Path) -> StoreMap:
    """Return the map of a file, shared by all that read it in this process."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise DataError(f"no packed store at {path}; make it by python -m mmnas pack-features") from None
    found = _MAPS.get((status.st_dev, status.st_ino))
    if found is None:
        found = _MAPS[status.st_dev, status.st_ino] = StoreMap(path)
    return found
