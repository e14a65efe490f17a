"""Region features of a data set into one packed store, and the check of a store."""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mmnas.data.feature_files import count_files, feature_files
from mmnas.data.packed import StoreMap, map_of, require_finished
from mmnas.data.packed_format import DTYPES, Header, damaged, image_key, read_entries, read_header, value_size
from mmnas.data.packed_writer import StoreWriter
from mmnas.errors import DataError
from mmnas.files import PathLike
from mmnas.schema import require_one_of

_PROGRESS: dict[str, Any] = {"unit": " images", "mininterval": 1.0, "dynamic_ncols": True}


@dataclass(frozen=True)
class Packed:
    """What a store holds, and how many of its images this run has added."""

    header: Header
    new_images: int


def pack(
    sources: Sequence[PathLike], out: PathLike, dtype: str = "float32", feature_size: int | None = None
) -> Packed:
    """Pack the images of `sources` into the store `out`, or go on with one that was begun so.

    `feature_size` is by default that of the kind of features. Raises DataError for a damaged file, an image that
    is there twice, a full disk, or another store in the way; what was packed before that stays in the store.
    """
    require_one_of("--dtype", dtype, DTYPES)
    out, paths = Path(out), [Path(os.path.abspath(source)) for source in sources]
    counts = [count_files(path) for path in paths]
    total = None if None in counts else sum(filter(None, counts))
    wanted = Header("", feature_size or 0, dtype, tuple(map(str, paths)))
    with StoreWriter.open(out, wanted) as writer:
        before = writer.header.images
        if not writer.header.finished:
            with tqdm(total=total, desc=out.name, **_PROGRESS) as bar:
                for file in (file for path in paths for file in feature_files(path)):
                    writer.add(file)
                    bar.update()
            writer.finish()
        return Packed(writer.header, writer.header.images - before)


def verify(path: PathLike) -> Header:
    """Check every count and checksum of a store; return its header.

    Raises DataError that names the first damaged image and how many there are.
    """
    path = Path(path)
    store = map_of(path)
    with store.transaction() as transaction:
        header = read_header(transaction, path)
        require_finished(header, path)
        entries = read_entries(transaction, header, path)
        records = transaction.stat()["entries"]
    entries.sort(order="image")
    bar = tqdm(entries, desc=path.name, **_PROGRESS)
    bad = [int(entry["image"]) for entry in bar if not _sound(store, entry, header)]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise damaged(path, f"image {bad[0]}{more} of {len(entries)}")
    if records != header.images + 2 * header.commits + 1:
        raise damaged(path, f"{records} records, expected {header.images + 2 * header.commits + 1}")
    return header


def _sound(store: StoreMap, entry: np.void, header: Header) -> bool:
    try:
        value = store.read(image_key(int(entry["image"])))
    except DataError:
        return False
    size = value_size(int(entry["regions"]), header)
    return value is not None and len(value) == size and zlib.crc32(value.data) == entry["crc32"]
