"""Region features: one npz per image, behind an interface that a feature store can serve as well.

Files of the kind "x" hold `x` (D, K), or (K, D) from some extractors: told apart by D. Those of the kind
"fc7+pool5", of Mask R-CNN as in MAttNet, hold `fc7` (K, 2048) and `pool5` (K, 1024), which are concatenated. `bbox`
(K, 4) are xyxy pixels. Nothing is ever unpickled, and a file is read only when its image is asked for.
"""

import errno
import io
import math
import re
import zipfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec
import numpy as np

from mmnas.arrays import LONGEST_HEADER, read_array_header
from mmnas.data.made_by import MadeBy, maker_of_folder, one_maker
from mmnas.errors import DataError
from mmnas.files import PathLike, open_regular
from mmnas.schema import shown

KEYS = {"x": ("x",), "fc7+pool5": ("fc7", "pool5")}
"""The kinds of features, and the keys that hold them in an npz file."""
WIDTHS = {"x": 2048, "fc7+pool5": 2048 + 1024}
_EXPECTED = {
    "x": "({0}, K) or (K, {0}); model.feature_size by --CFG sets another width",
    "fc7+pool5": "(K, 2048) and (K, 1024), {0} together",
}
# Detectors clip boxes to the image with rounding; a box may pass the border by this many pixels.
BORDER = 1.5
# Far beyond what detectors give; an array that claims more is not read.
MAX_REGIONS = 4096
_MADE_BY, _LONGEST_NOTE = "detector", 4096  # a key beside the arrays; bytes
# The names of the published files: 9.npz, 9.jpg.npz, COCO_train2014_000000000009.jpg.npz. Words may come before the
# number, but no other number, since it could be the image's.
ENDING = r"\.(?:npz|jpe?g?|png|bmp|gif|tiff?|webp|p[gp]m|mpo)"
_IMAGE_NAME = re.compile(rf"(?:_|(?:[a-z][a-z0-9]*_)+)?([0-9]{{1,18}})(?:{ENDING}){{1,2}}", re.ASCII | re.I)


IdOf = Callable[[str], int | None]
"""From the name of a file to its image, None for other files."""


@dataclass(frozen=True, slots=True)
class Regions:
    """One image: features (K, D) float32, boxes (K, 4) float32 xyxy pixels, size (2,) height and width."""

    features: np.ndarray
    boxes: np.ndarray
    image_size: np.ndarray
    made_by: MadeBy | None = field(default=None, kw_only=True)
    """None: unknown, as of downloaded features."""

    def sample(self, most: int) -> dict[str, np.ndarray]:
        """Return the part of a sample that all tasks share: the first `most` regions and the image's size."""
        return {"features": self.features[:most], "boxes": self.boxes[:most], "image_sizes": self.image_size}


class RegionSource(Protocol):
    """Where regions come from: image id -> `Regions`."""

    made_by: MadeBy | None
    """What made those that are known so far; None where nothing is noted."""

    def __contains__(self, image_id: int) -> bool:
        """Whether the image has features."""

    def __getitem__(self, image_id: int) -> Regions:
        """Read one image. Raises `DataError` naming file, key and remedy when it is damaged."""

    def describe(self) -> str:
        """Say where the features lie, for messages."""


def image_id_of(name: str) -> int | None:
    """Return the image that a file is named after, such as 9.npz or name_9.jpg; None for any other name."""
    match = _IMAGE_NAME.fullmatch(name)
    return int(match[1]) if match else None


class NpzFolders:
    """Folders of npz files of one kind; holds the paths, never the features.

    Raises `DataError` naming both files when two are of the same image.
    """

    def __init__(
        self, folders: Sequence[Path], feature_size: int, kind: str = "x", id_of: IdOf = image_id_of
    ) -> None:
        self.folders = [Path(folder) for folder in folders]
        self.feature_size, self.kind = feature_size, kind
        self.made_by: MadeBy | None = None
        for folder in self.folders:
            self.made_by = one_maker(self.made_by, maker_of_folder(folder), folder)
        self._files: dict[int, str] = {}
        for path in (path for folder in self.folders for path in sorted(folder.glob("*.npz"))):
            image_id = id_of(path.name)
            if image_id is not None:
                add_file(self._files, image_id, str(path))

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, image_id: int) -> Regions:
        if image_id not in self._files:
            raise DataError(f"no region features for image {image_id}; looked in {self.describe()}")
        regions = read_npz(self._files[image_id], self.feature_size, self.kind)
        self.made_by = one_maker(self.made_by, regions.made_by, self._files[image_id])
        return regions

    def describe(self) -> str:
        """Return the folders, comma-separated."""
        return ", ".join(str(folder) for folder in self.folders)


def add_file(files: dict[int, str], image_id: int, name: str) -> None:
    """Note the file of an image. Raises `DataError` naming both files when the image has one already."""
    if image_id in files:
        raise DataError(f"image {image_id} is in {files[image_id]} and in {name}: leave one of the two out")
    files[image_id] = name


def open_npz(path: PathLike) -> BinaryIO:
    """Open a file to read. Raises `DataError` for what is not a regular file, such as a pipe, which could block."""
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise DataError(f"region features vanished: {path}; restore the file and --RESUME") from None
    except OSError as exception:
        odd = DataError(f"{path} is not a regular file; remove it, or put the image's .npz file in its place")
        raise odd if exception.errno in (errno.EINVAL, errno.EISDIR) else exception from None


def read_npz(path: PathLike, feature_size: int, kind: str = "x", file: BinaryIO | None = None) -> Regions:
    """Read and check one file. Raises `DataError` naming the file, the key and what to do.

    `file`: an open file to read instead; `path` then only appears in messages.
    """
    keys = (*KEYS[kind], "bbox", "image_h", "image_w")
    with open_npz(path) if file is None else file as opened:
        arrays, made_by = load_arrays(path, keys, MAX_REGIONS * max(feature_size, 4) * 8, opened)
    *parts, boxes, height, width = arrays
    size = np.array([_number(height), _number(width)])
    regions = Regions(_features(parts, kind, feature_size, path), boxes, size, made_by=made_by)
    return check_regions(regions, kind, path)


def check_regions(image: Regions, kind: str, name: object) -> Regions:
    """Return an image from any file as float32.

    Raises `DataError` with `name` unless it holds regions, features that are finite, a size in pixels, and a box
    within the image for each region.
    """
    count, boxes = len(image.features), image.boxes
    if not count:
        raise DataError(f"{name}: {kind} has no region; extract the image's features again")
    with np.errstate(over="ignore"):  # the check below names what overflows
        features, size = (array.astype(np.float32, copy=False) for array in (image.features, image.image_size))
    if not np.isfinite(features).all():
        raise DataError(f"{name}: {kind} holds NaN or infinite values; extract its features again")
    for key, side in zip(("image_h", "image_w"), size, strict=True):
        if not 0 < side < 1e6:
            raise DataError(f"{name}: {key} must be one positive number of pixels; extract its features again")
    if boxes.shape != (count, 4) or boxes.dtype.kind not in "iuf":
        raise DataError(f"{name}: bbox is {boxes.dtype} {boxes.shape}, expected numbers ({count}, 4)")
    boxes = boxes.astype(np.float32, copy=False)
    height, width = size
    outside = ~((boxes >= -BORDER) & (boxes <= size[[1, 0, 1, 0]] + BORDER)).all(axis=1)  # NaN counts as outside
    if outside.any():
        box = boxes[outside.argmax()].tolist()
        raise DataError(f"{name}: bbox {box} lies outside the {width:g} x {height:g} image; extract it again")
    inverted = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if inverted.any():
        box = boxes[inverted.argmax()].tolist()
        raise DataError(f"{name}: bbox {box} is inverted; boxes are x1 y1 x2 y2; extract it again")
    return replace(image, features=features, boxes=boxes, image_size=size)


def load_arrays(
    path: PathLike, keys: Sequence[str], limit: int, file: BinaryIO
) -> tuple[list[np.ndarray], MadeBy | None]:
    """Return the arrays of these keys, each of at most `limit` bytes, and what made them; or raise `DataError`."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            for key in keys:
                if key not in members:
                    raise DataError(f"{path} has no key {key}; {_remedy(key, members)}")
            made_by = None
            if _MADE_BY in members:
                text = str(_array(archive, members[_MADE_BY], _LONGEST_NOTE))
                made_by = msgspec.json.decode(text, type=MadeBy)
            return [_array(archive, members[key], limit) for key in keys], made_by
    except DataError:
        raise
    except Exception as exception:  # numpy and zipfile raise many kinds for damaged bytes
        reason = shown(str(exception) or type(exception).__name__)[1:-1]
        raise DataError(f"{path} is damaged or truncated ({reason}); copy or extract it again") from None


def _array(archive: zipfile.ZipFile, name: str, limit: int) -> np.ndarray:
    """Return one array of an archive; raises ValueError before memory is taken for what it only claims to hold."""
    member = archive.getinfo(name)
    methods = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
    if member.file_size > limit + LONGEST_HEADER or member.compress_type not in methods:
        raise ValueError(f"{name} claims {member.file_size} bytes")
    with archive.open(member) as file:
        content = io.BytesIO(file.read(member.file_size))  # without the number, a bomb goes off before it is cut
    shape, columns_first, dtype = read_array_header(content)
    if math.prod(shape) * dtype.itemsize != len(content.getbuffer()) - content.tell():
        raise ValueError(f"{name} claims the shape {shape}")
    values = np.frombuffer(content.getbuffer(), dtype, offset=content.tell())  # refuses objects
    return values.reshape(shape, order="F" if columns_first else "C")


def _remedy(missing: str, keys: Collection[str]) -> str:
    """Say what to do about a file without the key `missing`: it may be of the other kind."""
    if missing == "x" and set(KEYS["fc7+pool5"]) <= set(keys):
        return "its fc7 and pool5 are what train_vgd.py reads by --FEAT=coco_mrcn"
    if missing in KEYS["fc7+pool5"] and "x" in keys:
        return "its x is what train_vgd.py reads by --FEAT=vg_woref"
    if missing == "bbox":
        return "each region needs its box, which features of a grid do not have; extract features of regions"
    return "extract its features again"


def _number(value: np.ndarray) -> float:
    """Return the one number that an array holds; NaN for anything else."""
    return float(value.reshape(())) if value.size == 1 and value.dtype.kind in "iuf" else math.nan


def _features(parts: Sequence[np.ndarray], kind: str, feature_size: int, path: PathLike) -> np.ndarray:
    """Return the arrays of a kind side by side as (K, D), whichever way round x was stored."""
    found = " and ".join(f"{key} is {part.dtype} {part.shape}" for key, part in zip(KEYS[kind], parts, strict=True))
    if len(parts) == 1 and parts[0].shape[:1] == (feature_size,):
        parts = [parts[0].T]  # (D, K) -> (K, D)
    alike = all(part.ndim == 2 and part.dtype.kind == "f" and len(part) == len(parts[0]) for part in parts)
    if not alike or sum(part.shape[1] for part in parts) != feature_size:
        raise DataError(f"{path}: {found}, expected floats {_EXPECTED[kind].format(feature_size)}")
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
