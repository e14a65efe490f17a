"""Packing region features into a feature store, and checking a store.

Images are appended to the data files. Every few hundred images, and every minute, the files are flushed to the disk
and `store.json` is replaced by one that counts them; an interrupted run resumes there.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
import zlib
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from msgspec.structs import replace
from tqdm import tqdm

from mmnas.data import store as layout
from mmnas.data.feature_files import FeatureFile, count_files, feature_files
from mmnas.data.features import MAX_REGIONS, WIDTHS, Regions, add_file, read_npz
from mmnas.data.made_by import one_maker
from mmnas.data.store import BOXES, ENTRY, FEATURES, HEADER, INDEX, FeatureStore, Header, checksum, damaged
from mmnas.errors import ConfigError, DataError, safe
from mmnas.files import PathLike, remove_temporaries, write_json
from mmnas.schema import require_one_of

DTYPES = ("float32", "float16")
_COMMIT_IMAGES, _COMMIT_SECONDS = 256, 60  # whichever comes first: a detector may take seconds for an image
_PROGRESS: dict[str, Any] = {"unit": " images", "mininterval": 1.0, "dynamic_ncols": True}


def pack(
    sources: Sequence[PathLike], out: PathLike, dtype: str = "float32", feature_size: int | None = None
) -> tuple[Header, int]:
    """Pack the images of `sources` into the store `out`, or resume packing it.

    Returns what the store holds, and how many images this run added. `feature_size` is by default that of the kind
    of features. Raises DataError for a damaged file, an image that occurs twice, a full disk, or something else at
    `out`; what was packed before that stays in the store.
    """
    require_one_of("--dtype", dtype, DTYPES)
    if feature_size is not None and not 0 < feature_size <= layout.MAX_WIDTH:
        raise ConfigError(f"--feature-size must be from 1 to {layout.MAX_WIDTH}, not {feature_size}")
    paths = [Path(os.path.abspath(source)) for source in sources]
    counts = [count_files(path) for path in paths]
    names = tuple(str(path).encode(errors="backslashreplace").decode() for path in paths)
    with StoreWriter(Path(out), Header("", feature_size or 0, dtype, names)) as writer:  # type: ignore[arg-type]
        before = writer.header.images
        if not writer.header.finished:
            total = None if None in counts else sum(filter(None, counts))
            files = (file for path in paths for file in feature_files(path))
            for file in tqdm(files, safe(writer.path.name), total, **_PROGRESS):
                writer.add(file)
            writer.commit(finished=True)
        return writer.header, writer.header.images - before


def verify(path: PathLike) -> Header:
    """Check every count and checksum of a store; return its header.

    Raises DataError that names the first damaged image and counts the rest.
    """
    store = FeatureStore(path)
    expected = {entry["image"]: entry["crc32"] for entry in layout.read_index(store.path, store.header)}
    bad = []
    for image_id in tqdm(store.image_ids.tolist(), **_PROGRESS):
        if checksum(store.read(image_id)) == expected[image_id]:
            store[image_id]  # checks that an image can hold such values
        else:
            bad.append(image_id)
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise damaged(store.path, f"wrong checksum of image {bad[0]}{more} of {len(store)}")
    return store.header


class StoreWriter:
    """A store that is being packed, to be used in a `with` statement; `header` counts all that was added.

    In the end, also after an error or Ctrl-C, what was added is committed; a store without images is removed.
    Raises DataError when another process packs into the store, or it was begun otherwise than `wanted`, whose kind
    and width may be left to the first image.
    """

    def __init__(self, path: Path, wanted: Header) -> None:
        self.path, self.header = path, wanted
        self._names: dict[int, str] = {}  # image id -> its file, of those met in this run
        self._due = time.monotonic() + _COMMIT_SECONDS
        self._begin()
        self._files = {name: FileIO(path / name, "a") for name in wanted.file_sizes()}
        try:
            fcntl.flock(self._files[FEATURES], fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._resume()
        except BlockingIOError:
            raise DataError(f"{path} is being packed by another process: wait until it is done") from None
        except DataError:
            self._close()
            raise

    def _begin(self) -> None:
        """Make the folder and its header, unless they exist. Raises DataError when other files are there."""
        if not (self.path.is_file() or (self.path / HEADER).is_file()):
            self.path.mkdir(parents=True, exist_ok=True)
            remove_temporaries(self.path, HEADER)
            if any(self.path.iterdir()):
                raise DataError(f"{self.path} holds other files: the last argument is the folder to write")
            write_json(self.path / HEADER, msgspec.to_builtins(self.header), indent=1)
        layout.read_header(self.path)
        for path in filter(os.path.lexists, map(self.path.joinpath, self.header.file_sizes())):
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:  # writing would change another file
                raise DataError(f"{path} is not the plain file that packing writes there: delete the store")

    def _resume(self) -> None:
        """Go back to the last commit. Raises DataError when the store was begun otherwise."""
        header, wanted = layout.read_header(self.path), self.header
        size = wanted.feature_size or header.feature_size
        if header.images:
            if (header.sources, header.dtype, header.feature_size) != (wanted.sources, wanted.dtype, size):
                command = layout.pack_command(self.path, header)
                raise DataError(
                    f"{self.path} has other sources, dtype or width; delete it, or resume it by: {command}"
                )
            made_by = one_maker(wanted.made_by, header.made_by, self.path)
            self.header = replace(header, made_by=made_by)
        layout.require_sizes(self.path, self.header, or_longer=True)
        self._packed = set(layout.read_index(self.path, self.header)["image"].tolist())  # by former runs
        for name, size in self.header.file_sizes().items():
            self._files[name].truncate(size)

    def __contains__(self, image_id: int) -> bool:
        """Whether a former run added the image."""
        return image_id in self._packed

    def add(self, file: FeatureFile) -> None:
        """Add an image unless a former run did. Raises DataError when another file has the same image."""
        add_file(self._names, file.image_id, file.name)
        if file.image_id not in self._packed:
            with file.open() as opened:
                if not self.header.kind:  # the first image decides
                    kind = _kind_in(opened)
                    width = self.header.feature_size or WIDTHS[kind]
                    self.header = replace(self.header, kind=kind, feature_size=width)
                regions = read_npz(file.name, self.header.feature_size, self.header.kind, opened)
            made_by = one_maker(self.header.made_by, regions.made_by, file.name)
            self.header = replace(self.header, made_by=made_by)
            self._append(file.image_id, _stored(regions, self.header.dtype, file.name))

    def _append(self, image_id: int, image: Regions) -> None:
        entry = np.array([(image_id, len(image.boxes), *image.image_size, checksum(image))], ENTRY)
        for name, data in ((FEATURES, image.features), (BOXES, image.boxes), (INDEX, entry)):
            if self._files[name].write(data.data) != data.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        images, regions = self.header.images + 1, self.header.regions + len(image.boxes)
        index = zlib.crc32(entry.data, self.header.checksum)
        self.header = replace(self.header, images=images, regions=regions, checksum=index)
        if self.header.images % _COMMIT_IMAGES == 0 or time.monotonic() > self._due:
            self.commit()

    def commit(self, finished: bool = False) -> None:
        """Flush what was added to the disk, then count it in the header on the disk."""
        self.header = replace(self.header, finished=finished)
        for file in self._files.values():
            os.fsync(file)
        write_json(self.path / HEADER, msgspec.to_builtins(self.header), indent=1)
        self._due = time.monotonic() + _COMMIT_SECONDS

    def _close(self) -> None:
        for file in self._files.values():
            file.close()

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if not self.header.finished:
                self.commit()
        except OSError as exception:
            error = exception
        self._close()
        if not self.header.images:
            for name in (HEADER, *self.header.file_sizes()):
                (self.path / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other files are there
                self.path.rmdir()
        if isinstance(error, OSError) and Path(error.filename or self.path / HEADER).parent == self.path:
            remedy = "free space on its disk and run the command again: it resumes after what is packed"
            raise DataError(f"{self.path} cannot be written ({error.strerror}); {remedy}") from None


def _stored(regions: Regions, dtype: str, name: str) -> Regions:
    """Return an image as a store holds it. Raises DataError naming its file when it does not fit."""
    if len(regions.boxes) > MAX_REGIONS:
        raise DataError(f"{name}: {len(regions.boxes)} regions are more than a store takes; use the .npz files")
    with np.errstate(over="ignore"):  # the check below names what overflows
        features = np.ascontiguousarray(regions.features, np.dtype(dtype).newbyteorder("<"))
    if not np.isfinite(features).all():
        largest = float(np.abs(regions.features).max())
        raise DataError(f"{name}: a feature of {largest:.6g} does not fit float16; pack with --dtype float32")
    return Regions(features, np.ascontiguousarray(regions.boxes, "<f4"), regions.image_size)


def _kind_in(file: BinaryIO) -> str:
    """Return the kind of features in an npz file; the reader of "x" says what is wrong with other files."""
    content = file.read()
    return "fc7+pool5" if b"fc7.npy" in content and b"pool5.npy" in content else "x"
