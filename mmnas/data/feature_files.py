"""The npz files of region features in folders and in archives as downloaded, or rows of tables, one by one.

An archive is read as a stream: nothing is unpacked to the disk, and what is not asked for is passed over.
"""

import gzip
import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, NoReturn

import numpy as np

from mmnas.data.features import Regions, image_id_of, open_npz
from mmnas.data.tsv import read_tsv
from mmnas.errors import DataError

ARCHIVES = (".tar", ".tar.gz", ".tgz")
TABLES = (".tsv", ".zip")
"""A .zip is one of .tsv files."""
# Far above any real file (100 regions of 3072 floats are 1.2 MB); a member is held in memory.
_LARGEST_MEMBER = 256 * 2**20
_GZIP = b"\x1f\x8b"
_LONGEST_HEADER = 2**20
_EXTENDED = b"LKxXg"  # types of headers that hold a long name, or attributes
_BLOCK = 512  # of a tar file, which ends in blocks of zeros


@dataclass(frozen=True)
class FeatureFile:
    """One npz file: what to call it in messages, its image, and how to open it while it is at hand."""

    name: str
    image_id: int
    open: Callable[[], BinaryIO]


def feature_files(source: Path) -> Iterator[FeatureFile]:
    """Yield the npz files of a folder and those below it by name, of an archive in its order, or the file itself.

    Raises DataError naming the source when it is missing, holds none, or is a damaged archive.
    """
    found = False
    for file in _files(source):
        found = True
        yield file
    if not found:
        raise DataError(f"{source} holds no .npz file named after an image, such as 9.npz or name_9.jpg.npz")


def count_files(source: Path) -> int | None:
    """Return the number of npz files in a folder; None for archives and tables, which would have to be read."""
    return None if source.name.endswith((*ARCHIVES, *TABLES)) else sum(1 for _ in _files(source))


def _files(source: Path) -> Iterator[FeatureFile]:
    if source.is_dir():
        return _folder_files(sorted(source.rglob("*.npz")))
    if not source.is_file():
        raise DataError(f"region features not found: {source}; name a folder, an .npz file or an archive")
    if source.name.endswith(ARCHIVES):
        return _archive_files(source)
    if source.suffix in TABLES:
        return _table_rows(source)
    if source.suffix != ".npz":
        raise DataError(f"{source} is no folder, .npz file or archive ({', '.join((*ARCHIVES, *TABLES))})")
    return _folder_files([source])


def _folder_files(paths: list[Path]) -> Iterator[FeatureFile]:
    for path in paths:
        image_id = image_id_of(path.name)
        if image_id is not None:
            yield FeatureFile(str(path), image_id, partial(open_npz, path))


def _table_rows(source: Path) -> Iterator[FeatureFile]:
    for image_id, regions in read_tsv(source):
        yield FeatureFile(f"{source}, image {image_id}", image_id, partial(as_npz, regions))


def as_npz(regions: Regions) -> BinaryIO:
    """Return an open npz file, in memory, of one image's regions."""
    height, width = regions.image_size
    stream = io.BytesIO()
    np.savez(stream, x=regions.features, bbox=regions.boxes, image_h=height, image_w=width)
    stream.seek(0)
    return stream


def _archive_files(archive: Path) -> Iterator[FeatureFile]:
    """Yield the members that are npz files. Raises DataError naming the position where an archive is broken."""
    last = "its start"
    try:
        with open(archive, "rb") as raw:
            stream = _Ending(gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == _GZIP else raw)
            tar = tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member)  # noqa: SIM115 it holds only `raw`
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep the headers of all members
                name = PurePosixPath(member.name).name
                image_id = image_id_of(name) if name.endswith(".npz") else None
                if image_id is not None and (member.isfile() or member.islnk() or member.issym()):
                    read = partial(_read_member, tar, member, archive)
                    yield FeatureFile(f"{archive}: {member.name}", image_id, read)
                last = member.name
            stream.require_whole()
    except DataError:
        raise
    except Exception as exception:  # tarfile and gzip raise many kinds for damaged bytes
        raise _damaged(archive, last, exception) from None


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path) -> BinaryIO:
    if member.size > _LARGEST_MEMBER:
        raise DataError(f"{archive}: {member.name} has {member.size} bytes, far more than one image's features")
    try:
        if member.isfile():
            return _content(tar.extractfile(member))
        with tarfile.open(archive, tarinfo=_Member) as again:  # rare, so it may be slow
            return _content(again.extractfile(member.name))
    except KeyError:
        what = f"a link to {member.linkname}, which is not in the archive"
        raise DataError(f"{archive}: {member.name} is {what}; unpack it and pack its folder") from None
    except Exception as exception:  # tarfile and gzip raise many kinds for damaged bytes
        raise _damaged(archive, member.name, exception) from None


def _content(file: IO[bytes] | None) -> BinaryIO:
    return io.BytesIO(file.read(_LARGEST_MEMBER) if file else b"")


def _damaged(archive: Path, last: str, exception: Exception) -> DataError:
    return DataError(f"{archive} is damaged or truncated at or behind {last} ({exception}); download it again")


class _Member(tarfile.TarInfo):
    """A header of an archive; refused when it would make tarfile hold more than a long name in memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Any:
        """Read one block. Raises ReadError for a header of absurd size, and for sparse files."""
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.type in _EXTENDED and member.size > _LONGEST_HEADER):
            raise tarfile.ReadError(f"a header of {member.size} bytes")
        if member.type == tarfile.GNUTYPE_SPARSE:
            member.refuse_sparse()
        return member

    def refuse_sparse(self, *_: Any) -> NoReturn:
        """Raise ReadError: the map of a sparse file may be of any length."""
        raise tarfile.ReadError("it holds a sparse file: unpack it, pack its folder")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = refuse_sparse  # of pax headers


class _Ending(io.RawIOBase):
    """A stream that remembers its end: tarfile takes an archive that is cut between members for a whole one."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self._last = b""

    def read(self, size: int = -1) -> bytes:
        """Read as the stream does."""
        data = self._stream.read(size)
        self._last = (self._last + data)[-_BLOCK:] if data else self._last
        return data

    def require_whole(self) -> None:
        """Read to the end, which makes gzip check its sum; raise EOFError unless it is that of a tar file."""
        while self.read(2**20):
            pass
        if self._last.strip(b"\0"):
            raise EOFError("the archive's end is missing")
