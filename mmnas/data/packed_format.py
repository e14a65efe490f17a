"""What a packed store holds. It is one LMDB file, written by `packing.py` and read by `packed.py`.

`header`: JSON, the fields of `Header`. For each commit of the writer two records: `entries/<number>`, an array
of `ENTRY` with region count and checksum of each image of that commit, and `names/<number>`, a JSON list of
where each came from. Under each image id (8 bytes, big-endian) one value: the image's size (2) and boxes (K, 4)
in float32, then its features (K, D) in the store's type, all little-endian and in C order.
"""

import dataclasses
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmnas.data.features import Reader, Regions, read_mask_rcnn_npz, read_npz
from mmnas.errors import ConfigError, DataError
from mmnas.schema import convert

FORMAT = {"format": "mmnas region features", "version": 1}
ENTRY = np.dtype([("image", "<i8"), ("regions", "<i4"), ("crc32", "<u4")])
DTYPES: dict[str, np.dtype] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
READERS: dict[str, Reader] = {"x": read_npz, "fc7+pool5": read_mask_rcnn_npz}
"""The kinds of features, by the keys that hold them in an npz file, and what reads such a file."""
WIDTHS = {"x": 2048, "fc7+pool5": 2048 + 1024}
HEADER_KEY = b"header"
LARGEST_RECORD = 16 * 2**20
"""No record is longer than this, in bytes; 100 regions of 3072 floats are 1.2 MB."""
TAIL = LARGEST_RECORD + 2**17
"""So many empty bytes follow the last page, and two pages' reach: a damaged page that points anywhere in the file
leads to wrong data, which is found, but never beyond the file's end, where reading would kill the process."""
_SINGLE = np.dtype("<f4")


@dataclass(frozen=True)
class Header:
    """What a store says of itself; `checksum` is the CRC-32 of the entries of all commits."""

    kind: str
    feature_size: int
    dtype: str
    sources: tuple[str, ...]
    commits: int = 0
    images: int = 0
    regions: int = 0
    checksum: int = 0
    finished: bool = False

    def after(self, entries: np.ndarray) -> "Header":
        """Return the header once `entries` are committed too."""
        return dataclasses.replace(
            self,
            commits=self.commits + 1,
            images=self.images + len(entries),
            regions=self.regions + int(entries["regions"].sum()),
            checksum=zlib.crc32(entries.tobytes(), self.checksum),
        )

    def encode(self) -> bytes:
        """Return the bytes under `HEADER_KEY`."""
        return json.dumps({**FORMAT, **dataclasses.asdict(self)}).encode()


def image_key(image_id: int) -> bytes:
    """Return the key of an image; keys sort as ids do."""
    return struct.pack(">q", image_id)


def commit_keys(number: int) -> tuple[bytes, bytes]:
    """Return the keys of a commit's entries and names."""
    return b"entries/%08d" % number, b"names/%08d" % number


def read_header(transaction: Any, path: Path) -> Header:
    """Read the header. Raises DataError when it is not that of a store of this format."""
    try:
        values = json.loads(_record(transaction, HEADER_KEY))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or values.get("format") != FORMAT["format"]:
        raise DataError(f"{path} is no store of region features; make one by python -m mmnas pack-features")
    if values.get("version") != FORMAT["version"]:
        raise DataError(
            f"{path} is of version {values.get('version')!r:.20} of the format, this program reads "
            f"{FORMAT['version']}; pack the features again"
        )
    try:
        header = convert(values, Header)
    except ConfigError as exception:
        raise damaged(path, f"header: {exception}") from None
    if header.kind not in READERS or header.dtype not in DTYPES or header.feature_size < 1:
        raise damaged(path, f"header: {header.kind[:20]!r} {header.dtype[:20]!r} {header.feature_size}")
    return header


def read_entries(transaction: Any, header: Header, path: Path) -> np.ndarray:
    """Read the entries (images,) in the order of their commits. Raises DataError unless they fit the header."""
    parts = [_entries(transaction, number, path) for number in range(header.commits)]
    entries = np.concatenate([np.empty(0, ENTRY), *parts])
    regions = entries["regions"]
    right = (
        zlib.crc32(entries.tobytes()) == header.checksum
        and (len(entries), int(regions.sum(dtype=np.int64))) == (header.images, header.regions)
        and (regions > 0).all()
        and (len(entries) > 0 or not header.finished)
        and len(np.unique(entries["image"])) == len(entries)
    )
    if not right:
        raise damaged(path, "its manifest does not fit its counts and checksum")
    return entries


def _entries(transaction: Any, number: int, path: Path) -> np.ndarray:
    raw = _record(transaction, commit_keys(number)[0])
    if not raw or len(raw) % ENTRY.itemsize:
        raise damaged(path, f"part {number} of its manifest is missing or cut")
    return np.frombuffer(raw, ENTRY)


def read_names(transaction: Any, header: Header, path: Path) -> Iterator[str]:
    """Yield where each image came from, in the order of the entries."""
    for number in range(header.commits):
        try:
            yield from json.loads(_record(transaction, commit_keys(number)[1]))
        except (ValueError, TypeError, RecursionError):
            raise damaged(path, f"part {number} of its list of names") from None


def _record(transaction: Any, key: bytes) -> bytes:
    """Return a copy of a record, empty when it is missing or too long to be real."""
    raw = transaction.get(key)
    return b"" if raw is None or len(raw) > LARGEST_RECORD else bytes(raw)


def value_size(regions: int, header: Header) -> int:
    """Return the bytes of the value of an image with so many regions."""
    return (2 + 4 * regions) * _SINGLE.itemsize + regions * header.feature_size * DTYPES[header.dtype].itemsize


def encode_regions(regions: Regions, header: Header, name: str) -> bytes:
    """Return the value of an image. Raises DataError naming the file when too large, or beyond float16's range."""
    if value_size(len(regions.boxes), header) > LARGEST_RECORD:
        raise DataError(f"{name}: {len(regions.boxes)} regions are more than a store takes; use the .npz files")
    with np.errstate(over="ignore"):  # the check below names what overflows
        features = regions.features.astype(DTYPES[header.dtype])
    if header.dtype == "float16" and not np.isfinite(features).all():
        largest = float(np.abs(regions.features).max())
        raise DataError(f"{name}: a feature of {largest:.6g} does not fit float16; pack with --dtype float32")
    frame = [array.astype(_SINGLE).tobytes() for array in (regions.image_size, regions.boxes)]
    return b"".join([*frame, features.tobytes()])


def decode_regions(value: np.ndarray, regions: int, header: Header) -> Regions:
    """Return the image in a value (bytes,) of the right size: float32 arrays, parts of the value if it can be."""
    split = 4 * (2 + 4 * regions)
    frame, features = value[:split].view(_SINGLE), value[split:].view(DTYPES[header.dtype])
    features = features.reshape(regions, header.feature_size).astype(np.float32, copy=False)
    return Regions(features, frame[2:].reshape(regions, 4), frame[:2])


def damaged(path: Path, what: str) -> DataError:
    """Return the error of a store that cannot be trusted."""
    return DataError(f"{path} is damaged ({what}); copy it again, or delete it and pack the features again")
