"""The feature store: the region features of all images as one flat array on disk, read image by image.

A store is a folder of four files (I images, R regions in all, D width; numbers little-endian, arrays in C order):

    store.json     the fields of `Header`: what the store holds, and how much of the other files belongs to it
    features.bin   (R, D) float32 or float16, image after image in the order of the index
    boxes.bin      (R, 4) float32, xyxy pixels
    index.bin      (I,) of `ENTRY`: image id, number of regions, image size, CRC-32 of its boxes and features
"""

import os
import shlex
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

from mmnas.data.features import MAX_REGIONS, Regions, RegionSource, check_regions
from mmnas.data.made_by import MadeBy
from mmnas.errors import DataError
from mmnas.files import PathLike, read_json

HEADER, FEATURES, BOXES, INDEX = "store.json", "features.bin", "boxes.bin", "index.bin"
ENTRY = np.dtype("<i8, <i4, <f4, <f4, <u4")
ENTRY.names = ("image", "regions", "height", "width", "crc32")
MAX_WIDTH = 2**16
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**40)]


class Header(msgspec.Struct, frozen=True):
    """What a store holds; `checksum` is the CRC-32 of its index. A store without images may lack kind and width."""

    kind: Literal["", "x", "fc7+pool5"]
    feature_size: Annotated[int, msgspec.Meta(ge=0, le=MAX_WIDTH)]
    dtype: Literal["float32", "float16"]
    sources: tuple[str, ...]
    images: _Count = 0
    regions: _Count = 0
    checksum: _Count = 0
    finished: bool = False
    made_by: MadeBy | None = None
    format: Literal["mmnas features 2"] = "mmnas features 2"

    def file_sizes(self) -> dict[str, int]:
        """Return the bytes of each data file that belong to the store."""
        row = self.feature_size * np.dtype(self.dtype).itemsize
        return {FEATURES: self.regions * row, BOXES: self.regions * 16, INDEX: self.images * ENTRY.itemsize}


EXTRACTED = "extract-features"
"""The one source of a store that was not packed from files."""


class FeatureStore:
    """A store made by `python -m mmnas pack-features`, read image by image; pickles as its path.

    Any number of processes and threads may read it. Raises DataError naming the store and the remedy when it is
    damaged or unfinished. Checksums of images are left to `pack-features --verify`.

    Once `table` holds the features of all images (R, D), and `sums` (R,) those of its rows, an image's features are
    row numbers (K,) of the table, and the sums stand for them in checks. The table is not pickled.
    """

    place: str | None = None
    """Where a run reads the features from, once that is settled."""
    table: Tensor | None = None
    sums: np.ndarray | None = None

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self.header = header = read_header(self.path)
        self.made_by = header.made_by
        if not (header.finished and header.images):
            command = pack_command(self.path, header)
            raise DataError(f"{path} is unfinished ({header.images} images so far); finish it by: {command}")
        require_sizes(self.path, header)
        entries = read_index(self.path, header)
        order = np.argsort(entries["image"])
        self._first = (np.cumsum(entries["regions"], dtype=np.int64) - entries["regions"])[order]
        self._entries = entries[order]
        self.image_ids = self._entries["image"].copy()  # ascending
        self._files = {name: open(self.path / name, "rb", 0) for name in (FEATURES, BOXES)}  # noqa: SIM115
        self._dtypes = {FEATURES: np.dtype(header.dtype).newbyteorder("<"), BOXES: np.dtype("<f4")}
        self._widths = {FEATURES: header.feature_size, BOXES: 4}

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureStore, (self.path,), {"sums": self.sums}

    def __contains__(self, image_id: int) -> bool:
        return image_id in self.image_ids[np.searchsorted(self.image_ids, image_id) :][:1]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, image_id: int) -> Regions:
        first, found = self._read(image_id)
        image = check_regions(found, self.header.kind, f"{self.path}, image {image_id}")
        if self.sums is None:
            return image
        return replace(image, features=np.arange(first, first + len(image.boxes)))

    def read(self, image_id: int) -> Regions:
        """Return what the store holds of an image, unchecked. Raises DataError when its files are cut."""
        return self._read(image_id)[1]

    def _read(self, image_id: int) -> tuple[int, Regions]:
        """Return the first row of an image, too."""
        index = self._find(np.array([image_id]))[0]
        first, (_, count, *size, _) = int(self._first[index]), self._entries[index].tolist()
        rows = slice(first, first + count)
        features = self._rows(FEATURES, first, count) if self.sums is None else self.sums[rows, None]
        return first, Regions(features, self._rows(BOXES, first, count), np.array(size))

    def map_features(self) -> Tensor:
        """Map the features of all images (R, D), in the store's type; processes of a machine share the memory."""
        self.require_whole()
        shape = self.header.regions, self.header.feature_size
        return torch.from_numpy(np.memmap(self._files[FEATURES], self._dtypes[FEATURES], "c", shape=shape))

    def require_whole(self) -> None:
        """Raise DataError when the file of features was cut: to read what was mapped would end the process."""
        if os.fstat(self._files[FEATURES].fileno()).st_size < self.header.file_sizes()[FEATURES]:
            raise damaged(self.path / FEATURES, "truncated while in use")

    def _rows(self, name: str, first: int, count: int) -> np.ndarray:
        rows = np.empty((count, self._widths[name]), self._dtypes[name])
        if os.preadv(self._files[name].fileno(), [rows.data], first * rows.strides[0]) != rows.nbytes:
            raise damaged(self.path / name, "truncated while in use")
        return rows

    def region_counts(self, image_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the number of regions of each image, without reading features; DataError for a missing one."""
        return self._entries["regions"][self._find(np.asarray(image_ids, np.int64))]

    def describe(self) -> str:
        """Return the path."""
        return str(self.path)

    def _find(self, image_ids: np.ndarray) -> np.ndarray:
        """Return the index of each image; DataError for one that is missing."""
        indices = np.searchsorted(self.image_ids, image_ids).clip(max=len(self) - 1)
        missing = self.image_ids[indices] != image_ids
        if missing.any():
            raise DataError(f"no region features for image {image_ids[missing.argmax()]}; looked in {self.path}")
        return indices


def open_store(path: PathLike | None, feature_size: int, kind: str = "x") -> FeatureStore | None:
    """Return the store at `path`; None when there is none.

    Raises DataError unless it holds features of this width and kind.
    """
    if path is None or not any(Path(path, name).is_file() for name in ("", HEADER, FEATURES)):
        return None
    store = FeatureStore(path)
    found, size = store.header.kind, store.header.feature_size
    if (found, size) != (kind, feature_size):
        raise DataError(f"{path} holds {found} features of width {size}, but {kind} of {feature_size} are needed")
    return store


def region_counts(source: RegionSource, image_ids: Sequence[int] | np.ndarray, most: int) -> np.ndarray | None:
    """Return the number of regions of each image, at most `most`; None where the source would have to read them."""
    counts = getattr(source, "region_counts", None)
    return None if counts is None else np.minimum(counts(image_ids), most)


def read_header(path: Path) -> Header:
    """Return the header of a store. Raises DataError when there is none, or it is damaged."""
    if path.is_file():
        raise DataError(
            f"{path} is a file, but a store is a folder; .lmdb stores of earlier versions are no longer read: pack "
            "the features again by python -m mmnas pack-features"
        )
    if not (path / HEADER).is_file():
        raise DataError(f"no feature store at {path}; make one by python -m mmnas pack-features")
    try:
        header: Header = read_json(path / HEADER, "header", kind=Header)
    except DataError as exception:
        raise damaged(path, str(exception)) from None
    return header


def read_index(path: Path, header: Header) -> np.ndarray:
    """Return the entries (I,) of a store in the order of packing. Raises DataError unless they fit the header."""
    entries = np.fromfile(path / INDEX, ENTRY, header.images)
    regions, ids = entries["regions"], np.unique(entries["image"])
    known = zlib.crc32(entries.data) == header.checksum and len(ids) == header.images
    if not known or int(regions.sum()) != header.regions or ((regions < 1) | (regions > MAX_REGIONS)).any():
        raise damaged(path / INDEX, f"it does not match the counts and checksum in {HEADER}")
    return entries


def checksum(image: Regions) -> int:
    """Return the CRC-32 of boxes and features as a store gives them, in float32."""
    return zlib.crc32(np.asarray(image.features, np.float32).data, zlib.crc32(image.boxes.data))


def require_sizes(path: Path, header: Header, or_longer: bool = False) -> None:
    """Raise DataError when a data file of a store is missing or its size is wrong."""
    for name, size in header.file_sizes().items():
        found = (path / name).stat().st_size if (path / name).is_file() else 0
        if found < size or (found > size and not or_longer):
            raise damaged(path / name, f"{found} bytes, expected {size}")


def pack_command(path: Path, header: Header) -> str:
    """Return the command that packs a store."""
    if header.sources == (EXTRACTED,):
        return "extract-features with the detector and the settings it was begun with"
    words = [*header.sources, str(path), "--dtype", header.dtype, "--feature-size", str(header.feature_size)]
    command = "python -m mmnas pack-features " + shlex.join(words)
    return command if command.isprintable() and len(command) < 1500 else "the command it was begun with"


def damaged(path: Path, what: str) -> DataError:
    """Return the error of a store that cannot be trusted."""
    return DataError(f"{path} is damaged ({what}); copy the store again, or delete it and pack the features again")
