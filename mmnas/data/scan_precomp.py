"""Flickr30K and COCO captions as they lie on the disk for image-text matching.

The "precomp" files of Lee et al., "Stacked Cross Attention for Image-Text Matching", ECCV 2018, with the
splits of Karpathy and Fei-Fei, CVPR 2015: one caption a line, five in a row for each image; beside them the
images' ids, once per image or once per caption. Flickr30K's ids are the `imgid` of `dataset_flickr30k.json`.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmnas.data.features import NpzFolders, RegionSource, image_id_of
from mmnas.data.packed import packed_at
from mmnas.errors import ConfigError, DataError
from mmnas.files import PathLike, read_json
from mmnas.schema import INT_LIMIT, nearest

log = logging.getLogger(__name__)

CAPTIONS_PER_IMAGE = 5


@dataclass(frozen=True)
class _Layout:
    """Where a data set lies: its folder below `itm`, its splits, its folders of region features."""

    folder: str
    splits: tuple[str, ...]
    features: str
    parts: tuple[str, ...]


_LAYOUTS = {
    "flickr": _Layout("f30k_precomp", ("train", "dev", "test"), "flickr_rois_resnet101_fix36", ()),
    "coco": _Layout(
        "coco_precomp", ("train", "dev", "test", "testall"), "rois_resnet101_fix36", ("train2014", "val2014")
    ),
}
DATASETS = tuple(_LAYOUTS)


@dataclass(frozen=True)
class Captions:
    """One split: image ids (I,) as the feature files have them, and five captions a row for each (5 I)."""

    image_ids: np.ndarray
    texts: list[str]

    def images(self, start: int, stop: int | None) -> "Captions":
        """Return the images of rows `start` to `stop`, with their captions."""
        kept = slice(start, stop)
        captions = slice(start * CAPTIONS_PER_IMAGE, None if stop is None else stop * CAPTIONS_PER_IMAGE)
        return Captions(self.image_ids[kept], self.texts[captions])


def splits_of(dataset: str) -> tuple[str, ...]:
    """Return the splits of a data set in the order of the vocabulary. Raises ConfigError for an unknown one."""
    return _layout(dataset).splits


def _layout(dataset: str) -> _Layout:
    if dataset not in _LAYOUTS:
        raise ConfigError(f"unknown data set '{dataset}'; {nearest(dataset, DATASETS)}")
    return _LAYOUTS[dataset]


def captions_path(data_path: PathLike, dataset: str, split: str) -> Path:
    """Return where the captions of a split lie; the ids lie beside them."""
    return Path(data_path) / "itm" / _layout(dataset).folder / f"{split}_caps.txt"


def read_captions(path: PathLike) -> list[str]:
    """Return the lines of a captions file; the last may lack its newline.

    An empty caption is kept, with a warning. Raises DataError when the file is missing or not UTF-8.
    """
    texts = _lines(Path(path), "captions file")
    empty = [number for number, text in enumerate(texts, start=1) if not text.strip()]
    if empty:
        log.warning("%s: line %d is empty (%d such): kept as captions without a word", path, empty[0], len(empty))
    return texts


def read_split(data_path: PathLike, dataset: str, split: str) -> Captions:
    """Return one split. Raises DataError naming the file and what does not fit."""
    path = captions_path(data_path, dataset, split)
    texts = read_captions(path)
    ids = _image_ids(path.with_name(f"{split}_ids.txt"), path, len(texts))
    if dataset == "flickr":
        ids = _file_ids(ids, path.with_name(f"{split}_ids.txt"), Path(data_path) / "itm" / "dataset_flickr30k.json")
    return Captions(np.array(ids, np.int64), texts)


def _lines(path: Path, what: str) -> list[str]:
    """Return the lines of a UTF-8 text file; nothing but a newline ends one."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise DataError(f"{what} not found: {path}") from None
    except OSError as exception:
        raise DataError(f"{what} cannot be read: {path}: {exception.strerror or exception}") from None
    except UnicodeDecodeError as exception:
        line = exception.object[: exception.start].count(b"\n") + 1
        raise DataError(f"{what} is not UTF-8 text: {path}, line {line}: save it as UTF-8") from None
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def _image_ids(path: Path, captions: Path, count: int) -> list[int]:
    """Return one id per image from a file with one line per image or one per caption."""
    lines = _lines(path, "ids file")
    for number, line in enumerate(lines, start=1):
        if not re.fullmatch(r"[ \t]*[0-9]{1,18}[ \t]*", line):
            raise DataError(f"{path}, line {number}: {line[:40]!r} is no image id: a whole number is expected")
    ids = [int(line) for line in lines]
    if not ids or count not in (len(ids), CAPTIONS_PER_IMAGE * len(ids)) or count % CAPTIONS_PER_IMAGE:
        raise DataError(
            f"{path} has {len(ids)} lines, {captions.name} {count}: expected five captions for each image, and one "
            "id for each image or each caption; take both files from the same release"
        )
    if count == len(ids):
        _check_groups(ids, path)
        ids = ids[::CAPTIONS_PER_IMAGE]
    return ids


def _check_groups(ids: list[int], path: Path) -> None:
    """Raise DataError unless five lines in a row name the same image."""
    rows = np.array(ids).reshape(-1, CAPTIONS_PER_IMAGE)
    mixed = (rows != rows[:, :1]).any(axis=1)
    if mixed.any():
        line = int(mixed.argmax()) * CAPTIONS_PER_IMAGE + 1
        raise DataError(f"{path}, line {line}: five lines in a row must name one image; take the file as released")


def _file_ids(ids: list[int], ids_path: Path, path: Path) -> list[int]:
    """Turn Flickr30K's `imgid`s into the numbers in the names of the images' files."""
    content = read_json(path, "Flickr30K's index")
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f'{path} has no list "images": take dataset_flickr30k.json as released')
    numbers = {}
    for position, entry in enumerate(entries):
        imgid, name = (entry.get(key) if isinstance(entry, dict) else None for key in ("imgid", "filename"))
        number = image_id_of(name) if isinstance(name, str) else None
        if type(imgid) is not int or abs(imgid) >= INT_LIMIT or number is None:
            raise DataError(f'{path}, image {position}: "imgid" and "filename" (a number and .jpg) are expected')
        numbers[imgid] = number
    missing = [imgid for imgid in ids if imgid not in numbers]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"image {missing[0]}{more} of {ids_path} not in {path}: both must be of the same release")
    return [numbers[imgid] for imgid in ids]


def matching_features(
    data_path: PathLike, feat_path: PathLike | None, dataset: str, feature_size: int
) -> RegionSource:
    """Return the region features of a data set.

    A `feat_path` that is given is the only place looked at: a packed store, the folder itself, or a folder of
    the usual name in it. Raises DataError naming the places when there is none with an npz file.
    """
    layout = _layout(dataset)
    store = packed_at(feat_path, feature_size)
    if store is not None:
        return store
    usual = Path(data_path if feat_path is None else feat_path) / layout.features
    places = [usual] if feat_path is None else [usual, Path(feat_path)]
    for place in places:
        folders = [place / part for part in layout.parts] or [place]
        present = [folder for folder in folders if any(folder.glob("*.npz"))]
        if present:
            return NpzFolders(present, feature_size)
    parts = f" ({', '.join(layout.parts)})" if layout.parts else ""
    raise DataError(
        f"no region features of {dataset}: put the folder{parts} of .npz files in one of these places: "
        f"{', '.join(map(str, places))}"
    )
