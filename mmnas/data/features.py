"""Region features: one npz per image, behind an interface that a feature store can serve as well.

The published files hold `x` (D, K), some extractors write (K, D): told apart by D. Those of Mask R-CNN, as
in MAttNet, hold `fc7` (K, 2048) and `pool5` (K, 1024) instead, which are concatenated. `bbox` (K, 4) are xyxy
pixels. Nothing is ever unpickled from a file, and a file is read only when its image is asked for.
"""

import io
import math
import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.lib import format as npy

from mmnas.errors import DataError
from mmnas.files import PathLike
from mmnas.schema import shown

# Detectors clip boxes to the image with rounding; a box may pass the border by this many pixels.
BORDER = 1.5
# Far beyond what detectors give; an array that claims more is not read.
MAX_REGIONS = 4096
_HEADER = 1 << 14  # more than the header of an array ever has, in bytes
_HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_MASK_RCNN = ("fc7", "pool5")
_IMAGE_ID = re.compile(r"(?:^|_)(\d{1,18})\.")


@dataclass(frozen=True, slots=True)
class Regions:
    """One image: features (K, D) float32, boxes (K, 4) float32 xyxy pixels, size (2,) height and width."""

    features: np.ndarray
    boxes: np.ndarray
    image_size: np.ndarray

    def sample(self, most: int) -> dict[str, np.ndarray]:
        """Return the part of a sample that all tasks share: the first `most` regions and the image's size."""
        return {"features": self.features[:most], "boxes": self.boxes[:most], "image_sizes": self.image_size}


Reader = Callable[..., Regions]
"""Reads the npz file of one image, given its path, the width of its features and, where it is open, the file."""


class RegionSource(Protocol):
    """Where regions come from: image id -> `Regions`."""

    def __contains__(self, image_id: int) -> bool:
        """Whether the image has features."""

    def __getitem__(self, image_id: int) -> Regions:
        """Read one image. Raises `DataError` naming file, key and remedy when it is damaged."""

    def describe(self) -> str:
        """Say where the features lie, for messages."""


def require_images(source: RegionSource, image_ids: Iterable[int], what: str) -> None:
    """Raise `DataError` naming the first image of `image_ids` without features and counting the rest."""
    missing = sorted(image_id for image_id in set(image_ids) if image_id not in source)
    if missing:
        more = f" and {len(missing) - 1} more images" if len(missing) > 1 else ""
        raise DataError(
            f"no region features for image {missing[0]}{more} of the {what}; looked in {source.describe()}; "
            "put the .npz files there or name their folder by --FEAT_PATH"
        )


class NpzFolders:
    """Folders of npz files, all for the same reader; holds the file names, never the features."""

    def __init__(self, folders: Sequence[Path], feature_size: int, read: Reader | None = None) -> None:
        self.folders = [Path(folder) for folder in folders]
        self.feature_size = feature_size
        self._read = read or read_npz
        self._files = {
            image_id: (number, path.name)
            for number, folder in enumerate(self.folders)
            for path in sorted(folder.glob("*.npz"))
            if (image_id := image_id_of(path.name)) is not None
        }

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, image_id: int) -> Regions:
        try:
            number, name = self._files[image_id]
        except KeyError:
            raise DataError(f"no region features for image {image_id}; looked in {self.describe()}") from None
        return self._read(self.folders[number] / name, self.feature_size)

    def describe(self) -> str:
        """Return the folders, comma-separated."""
        return ", ".join(str(folder) for folder in self.folders)


def image_id_of(name: str) -> int | None:
    """Return the integer between the last `_` and the first `.` after it, or None when there is none."""
    match = _IMAGE_ID.search(name[name.rfind("_") + 1 :])
    return int(match[1]) if match and match.start() == 0 else None


def read_npz(path: PathLike, feature_size: int, file: BinaryIO | None = None) -> Regions:
    """Read and check one file. Raises `DataError` naming the file, the key and what to do.

    A `file` that is open, and can be sought in, is read in place of `path`, which then is its name only.
    """
    arrays = _load(path, ("x",), feature_size, file)
    return _regions(_features(arrays["x"], feature_size, path), arrays, path)


def read_mask_rcnn_npz(path: PathLike, feature_size: int, file: BinaryIO | None = None) -> Regions:
    """Read and check one file of Mask R-CNN's: `fc7` and `pool5`, side by side. Raises as `read_npz` does."""
    arrays = _load(path, _MASK_RCNN, feature_size, file)
    fc7, pool5 = (arrays[key] for key in _MASK_RCNN)
    if fc7.ndim != 2 or pool5.ndim != 2 or len(fc7) != len(pool5) or fc7.shape[1] + pool5.shape[1] != feature_size:
        raise DataError(
            f"{path}: fc7 is {fc7.shape} and pool5 {pool5.shape}, expected (K, 2048) and (K, 1024), "
            f"{feature_size} together"
        )
    features = np.concatenate([_finite(fc7, "fc7", path), _finite(pool5, "pool5", path)], axis=1)  # (K, 3072)
    return _regions(features, arrays, path)


def _load(
    path: PathLike, feature_keys: Sequence[str], feature_size: int, opened: BinaryIO | None
) -> dict[str, np.ndarray]:
    """Return the arrays of a file: those of the features, the boxes and the image's size."""
    keys = (*feature_keys, "bbox", "image_h", "image_w")
    limit = MAX_REGIONS * max(feature_size, 4) * 8  # bytes of the widest array, of 64-bit numbers
    try:
        with zipfile.ZipFile(path if opened is None else opened) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            for key in keys:
                if key not in members:
                    raise DataError(f"{path} has no key {key}; {_remedy(key, members)}")
            return {key: _array(archive, members[key], limit) for key in keys}
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"region features vanished: {path}; restore the file and --RESUME") from None
    except Exception as exception:  # numpy and zipfile raise many kinds for damaged bytes
        reason = shown(str(exception) or type(exception).__name__)[1:-1]
        raise DataError(f"{path} is damaged or truncated ({reason}); copy or extract it again") from None


def _array(archive: zipfile.ZipFile, name: str, limit: int) -> np.ndarray:
    """Return one array of an archive; raises ValueError before memory is taken for what it only claims to hold."""
    member = archive.getinfo(name)
    if member.file_size > limit + _HEADER or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} claims {member.file_size} bytes")
    with archive.open(member) as file:
        content = io.BytesIO(file.read(member.file_size))  # without the number, a bomb goes off before it is cut
    shape, columns_first, dtype = _HEADER_READERS[npy.read_magic(content)](content)
    if math.prod(shape) * dtype.itemsize != len(content.getbuffer()) - content.tell():
        raise ValueError(f"{name} claims the shape {shape}")
    values = np.frombuffer(content.getbuffer(), dtype, offset=content.tell())  # refuses objects
    return values.reshape(shape, order="F" if columns_first else "C")


def _remedy(missing: str, keys: Collection[str]) -> str:
    """Say what to do about a file without the key `missing`: it may be of the other kind."""
    if missing == "x" and set(_MASK_RCNN) <= set(keys):
        return "its fc7 and pool5 are what train_vgd.py reads by --FEAT=coco_mrcn"
    if missing in _MASK_RCNN and "x" in keys:
        return "its x is what train_vgd.py reads by --FEAT=vg_woref"
    return "extract its features again"


def _regions(features: np.ndarray, arrays: dict[str, np.ndarray], path: PathLike) -> Regions:
    """Put features (K, D) together with the checked boxes and image size."""
    size = np.array([_side(arrays[key], key, path) for key in ("image_h", "image_w")], np.float32)
    return Regions(features, _boxes(arrays["bbox"], len(features), size, path), size)


def _features(x: np.ndarray, feature_size: int, path: PathLike) -> np.ndarray:
    """Return x as (K, D) float32, whichever way round it was stored."""
    if x.ndim != 2 or feature_size not in x.shape or x.dtype.kind != "f":
        raise DataError(
            f"{path}: x is {x.dtype} {x.shape}, expected floats ({feature_size}, K) or (K, {feature_size})"
        )
    if x.shape[0] == feature_size:
        x = x.T  # (D, K) -> (K, D)
    return _finite(x, "x", path)


def _finite(x: np.ndarray, key: str, path: PathLike) -> np.ndarray:
    """Return x (K, D) as float32, checked to hold regions and finite floats."""
    if len(x) == 0:
        raise DataError(f"{path}: {key} has no region; extract the image's features again")
    if x.dtype.kind != "f":
        raise DataError(f"{path}: {key} is {x.dtype}, expected floats; extract its features again")
    with np.errstate(over="ignore"):  # the check below names what overflows
        x = x.astype(np.float32, copy=False)
    if not np.isfinite(x).all():
        raise DataError(f"{path}: {key} holds NaN or infinite values; extract its features again")
    return x


def _side(value: np.ndarray, key: str, path: PathLike) -> float:
    if value.size != 1 or value.dtype.kind not in "iuf" or not 0 < (side := float(value.reshape(()))) < 1e6:
        raise DataError(f"{path}: {key} must be one positive number of pixels; extract its features again")
    return side


def _boxes(boxes: np.ndarray, regions: int, size: np.ndarray, path: PathLike) -> np.ndarray:
    """Check boxes (K, 4) xyxy pixels against the number of regions and the image's borders."""
    if boxes.shape != (regions, 4) or boxes.dtype.kind not in "iuf":
        raise DataError(f"{path}: bbox is {boxes.dtype} {boxes.shape}, expected numbers ({regions}, 4) as x has it")
    boxes = boxes.astype(np.float32, copy=False)
    height, width = size
    limit = np.array([width, height, width, height], np.float32) + BORDER
    outside = ~((boxes >= -BORDER) & (boxes <= limit)).all(axis=1)  # NaN counts as outside
    if outside.any():
        box = boxes[outside.argmax()].tolist()
        raise DataError(f"{path}: bbox {box} lies outside the {width:g} x {height:g} image; extract it again")
    inverted = (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])
    if inverted.any():
        box = boxes[inverted.argmax()].tolist()
        raise DataError(f"{path}: bbox {box} is inverted; boxes are x1 y1 x2 y2; extract it again")
    return boxes
