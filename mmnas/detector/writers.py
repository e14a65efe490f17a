"""Where extracted regions go: a folder of npz files, or a feature store; both say which detector made them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmnas.data.feature_files import FeatureFile, as_npz
from mmnas.data.features import image_id_of
from mmnas.data.store import EXTRACTED, Header
from mmnas.data.store_writer import StoreWriter
from mmnas.detector.network import FEATURE_SIZE
from mmnas.detector.regions import Choice, DetectedRegions
from mmnas.errors import DataError
from mmnas.files import PathLike, read_json, replacing, write_json

SETTINGS_FILE = "detector.json"
"""In a folder of features: which detector and settings made them."""
STORE_ENDING = ".features"


@dataclass(frozen=True)
class Settings:
    """What decides about the features of an image; `detector` is the digest of the weights."""

    detector: str
    choice: Choice | None
    """None: at given boxes."""
    precision: str = "float32"


class NpzWriter:
    """Writes a folder of `<image file>.npz` in the published form, the first regions being the best."""

    def __init__(self, folder: PathLike, settings: Settings) -> None:
        """Make the folder, or go on in it. Raises DataError for a folder with features of other settings."""
        self._folder, self._settings = Path(folder), asdict(settings)
        path = self._folder / SETTINGS_FILE
        if path.is_file():
            before = read_json(path, "settings of features")
            if before != self._settings:
                raise DataError(
                    f"{self._folder} holds features of other settings, {json.dumps(before)}, than these, "
                    f"{json.dumps(self._settings)}; they must not be mixed: name another folder"
                )
        elif self._folder.is_dir() and any(self._folder.glob("*.npz")):
            raise DataError(f"{self._folder} holds features of an unknown detector; name another folder")
        else:
            write_json(path, self._settings)

    def __contains__(self, name: str) -> bool:
        """Whether the image file of that name is done."""
        return self._path(name).is_file()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npz"

    def add(self, name: str, image_id: int | None, regions: DetectedRegions) -> None:
        """Write one file, or leave nothing; classes and attributes (0-based) stand beside the boxes."""
        height, width = map(np.int64, regions.image_size)
        arrays: dict[str, Any] = {"x": regions.features, "bbox": regions.boxes, "image_h": height, "image_w": width}
        arrays |= {**regions.best, "num_bbox": len(regions.boxes), "detector": json.dumps(self._settings)}
        with replacing(self._path(name)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)


class StoreOutput:
    """Adds to a feature store, of which the sources name the detector and its settings."""

    def __init__(self, store: StoreWriter) -> None:
        self._store = store

    def __contains__(self, name: str) -> bool:
        image_id = image_id_of(name)
        return image_id is not None and image_id in self._store

    def add(self, name: str, image_id: int | None, regions: DetectedRegions) -> None:
        """Add one image. Raises DataError for a name without a number, by which a store finds an image."""
        if image_id is None:
            raise DataError("a store needs an image number at the end of the file's name")
        self._store.add(FeatureFile(name, image_id, partial(as_npz, regions)))


Writer = NpzWriter | StoreOutput


@contextmanager
def open_writer(out: Path, settings: Settings) -> Iterator[Writer]:
    """Give a writer to `out`: a store where the name ends in `.features`, else a folder of npz files."""
    if out.suffix != STORE_ENDING:
        yield NpzWriter(out, settings)
        return
    sources = (EXTRACTED, json.dumps(asdict(settings)))
    with StoreWriter(out, Header("", FEATURE_SIZE, "float32", sources)) as store:
        store.commit()  # unfinished, until all of this run is in it
        yield StoreOutput(store)
        store.commit(finished=store.header.images > 0)
