"""Where extracted regions go: a folder of npz files, or a feature store; both say what made them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mmnas.data.feature_files import FeatureFile, as_npz
from mmnas.data.features import image_id_of
from mmnas.data.made_by import MADE_BY_FILE, MadeBy, maker_of_folder, one_maker
from mmnas.data.store import EXTRACTED, Header
from mmnas.data.store_writer import StoreWriter
from mmnas.detector.network import FEATURE_SIZE
from mmnas.detector.regions import DetectedRegions
from mmnas.errors import DataError
from mmnas.files import replacing, write_json

STORE_ENDING = ".features"
_LONGEST_NAME = 230  # bytes of an image's file name; file systems take 255, and .npz and more is added


class NpzWriter:
    """Writes a folder of `<image file>.npz` in the published form, the first regions being the best."""

    def __init__(self, folder: Path, made_by: MadeBy) -> None:
        """Make the folder, or go on in it. Raises DataError for a folder with features made otherwise."""
        self._folder, self._made_by = folder, made_by
        before = maker_of_folder(folder)
        if before is None and any(folder.glob("*.npz")):
            raise DataError(f"{folder} holds features of an unknown detector; name another folder")
        if one_maker(made_by, before, folder) != before:
            write_json(folder / MADE_BY_FILE, msgspec.to_builtins(made_by))

    def __contains__(self, name: str) -> bool:
        """Whether the image file of that name is done."""
        return os.path.isfile(self._folder / f"{name}.npz")

    def add(self, name: str, regions: DetectedRegions) -> None:
        """Write one file, or leave nothing; classes and attributes (0-based) stand beside the boxes."""
        if len(os.fsencode(name)) > _LONGEST_NAME:
            raise DataError(f"its name has more than {_LONGEST_NAME} bytes: shorten it")
        height, width = map(np.int64, regions.image_size)
        arrays: dict[str, Any] = {"x": regions.features, "bbox": regions.boxes, "image_h": height, "image_w": width}
        arrays |= {**regions.best, "num_bbox": len(regions.boxes), "detector": self._made_by.to_json()}
        with replacing(self._folder / f"{name}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)


class StoreOutput:
    """Adds to a feature store, whose header says what made its regions."""

    def __init__(self, store: StoreWriter) -> None:
        self._store = store

    def __contains__(self, name: str) -> bool:
        image_id = image_id_of(name)
        return image_id is not None and image_id in self._store

    def add(self, name: str, regions: DetectedRegions) -> None:
        """Add one image. Raises DataError for a name without a number, by which a store finds an image."""
        image_id = image_id_of(name)
        if image_id is None:
            raise DataError("a store needs an image number at the end of the file's name")
        self._store.add(FeatureFile(name, image_id, partial(as_npz, regions)))


Writer = NpzWriter | StoreOutput


@contextmanager
def open_writer(out: Path, made_by: MadeBy) -> Iterator[Writer]:
    """Give a writer to `out`: a store where the name ends in `.features`, else a folder of npz files."""
    if out.suffix != STORE_ENDING:
        yield NpzWriter(out, made_by)
        return
    with StoreWriter(out, Header("", FEATURE_SIZE, "float32", (EXTRACTED,), made_by=made_by)) as store:
        store.commit()  # unfinished, until all of this run is in it
        yield StoreOutput(store)
        store.commit(finished=store.header.images > 0)
