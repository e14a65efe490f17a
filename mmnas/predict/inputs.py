"""From what a user names, an image or its features, to regions; what a detector finds is kept for the next time."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmnas.data.features import WIDTHS, NpzFolders, Regions, RegionSource, check_regions, image_id_of, read_npz
from mmnas.data.made_by import Choice, MadeBy
from mmnas.data.store import open_store
from mmnas.detector.images import file_of, pixels_of, read_image
from mmnas.errors import ConfigError, DataError
from mmnas.files import PathLike, writing_cache

Arrays = tuple[np.ndarray, np.ndarray, Sequence[float] | np.ndarray]
"""Features (K, D), boxes (K, 4) in pixels, height and width in pixels."""
ImageInput = PathLike | Image.Image | Regions | Arrays
"""A file of an image or of its features (.npz), or either of them in memory."""


def default_cache() -> Path:
    """Return the folder for features of a user's images: `mmnas` in $XDG_CACHE_HOME, or else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmnas"


def name_of(image: ImageInput, number: int) -> str:
    """Return what an image is called: its path, or its number."""
    path = getattr(image, "filename", "") if isinstance(image, Image.Image) else image
    return str(path) if isinstance(path, (str, Path)) and path else f"image {number}"


class Inputs:
    """Finds the regions of images: in files of features, or else by a detector.

    `width` is that of the features, `boxes` how many regions an image has at least and at most.
    """

    def __init__(
        self,
        width: int,
        boxes: tuple[int, int],
        detector: PathLike | None,
        features: PathLike | None,
        cache: PathLike | None,
        device: str,
    ) -> None:
        self.width, self.boxes, self.device = width, boxes, device
        self.kind = "fc7+pool5" if width == WIDTHS["fc7+pool5"] else "x"
        self.detector = None if detector is None else Path(detector)
        self.features = None if features is None else Path(features)
        self._owner: Path | None = None  # of features that are one file
        if self.features is not None and not self.features.exists():
            raise ConfigError(f"features not found: {features}; name an .npz file, a folder of them or a store")
        if self.detector is not None:
            if width != WIDTHS["x"]:
                raise ConfigError(f"the checkpoint reads features {width} wide, a detector's are {WIDTHS['x']}")
            status = self.detector.stat()
            mark = f"{self.detector.resolve()} {status.st_size} {status.st_mtime_ns}"
            name = f"{hashlib.sha256(mark.encode()).hexdigest()[:16]}-{boxes[0]}-{boxes[1]}"
            self.cache = Path(cache or default_cache()) / name

    def regions(self, image: ImageInput, name: str) -> Regions:
        """Return the regions of an image that messages call `name`. Raises DataError if it is unusable."""
        if isinstance(image, Image.Image):
            return self._detected(pixels_of(image), name)
        try:
            if isinstance(image, tuple):
                with np.errstate(over="ignore"):
                    image = Regions(*(np.asarray(part, np.float32) for part in image))
            path = Path() if isinstance(image, Regions) else Path(image)
        except (TypeError, ValueError) as exception:
            kinds = "a file, a Pillow image, Regions, or a tuple of features, boxes and (height, width)"
            raise DataError(f"{name} is not {kinds}: {exception}") from None
        if isinstance(image, Regions):
            return self._checked(image, name)
        if path.suffix == ".npz":
            if not path.exists():
                raise DataError(f"features not found: {path}")
            return read_npz(path, self.width, self.kind)
        return self._found(path) if self.features else self._detected(read_image(path), name)

    def _checked(self, regions: Regions, name: str) -> Regions:
        if regions.features.shape[1:] != (self.width,) or regions.image_size.shape != (2,):
            shapes = f"features are {regions.features.shape}, the size {regions.image_size.shape}"
            raise DataError(f"{name}: {shapes}; expected (K, {self.width}) and height, width")
        return check_regions(regions, "features", name)

    @cached_property
    def _source(self) -> RegionSource:
        assert self.features is not None
        return open_store(self.features, self.width, self.kind) or NpzFolders(
            [self.features], self.width, self.kind
        )

    def _found(self, path: Path) -> Regions:
        """Return the features of an image file: by its name in a folder, or else by the number in its name."""
        assert self.features is not None
        if self.features.suffix == ".npz":
            self._owner = self._owner or path
            if path != self._owner:
                raise DataError(f"{self.features} was read for {self._owner}: name a folder with features of each")
            return read_npz(self.features, self.width, self.kind)
        if (file := file_of(self.features, path)) is not None:
            return read_npz(file, self.width, self.kind)
        image_id = image_id_of(path.name)
        if image_id is None:
            raise DataError(f"no features of {path}: {self.features / path.name}.npz not found")
        return self._source[image_id]

    def _detected(self, pixels: np.ndarray, name: str) -> Regions:
        """Return the regions that the detector finds in pixels (h, w, 3) uint8, blue first."""
        if self.detector is None:
            raise DataError(f"{name} is an image: give a detector, by --detector FILE, or its features")
        digest = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
        path = self.cache / f"{digest}.npz"
        if path.is_file():
            with contextlib.suppress(DataError):  # a damaged one is made anew
                return read_npz(path, self.width)
        from mmnas.detector.regions import detect  # slow to import
        from mmnas.detector.writers import NpzWriter

        network, weights = self._network
        choice = Choice(*self.boxes)
        with torch.backends.cudnn.flags(allow_tf32=False):
            regions = detect(network, pixels, choice)
        with writing_cache(path):
            NpzWriter(self.cache, MadeBy(weights, choice, "float32")).add(digest, regions)
        return regions

    @cached_property
    def _network(self) -> tuple[Any, str]:
        """The detector, and the digest of its weights."""
        from mmnas.detector.network import Detector
        from mmnas.detector.weights import read_weights

        assert self.detector is not None
        weights = read_weights(self.detector)
        return Detector.from_weights(weights.tensors, weights.anchors).to(self.device), weights.digest
