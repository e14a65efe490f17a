"""The captions of Flickr30K and COCO for image-text matching.

The "precomp" files of Lee et al., "Stacked Cross Attention for Image-Text Matching", ECCV 2018, with the
splits of Karpathy and Fei-Fei, CVPR 2015: one caption per line, the five of an image in a row; beside them the
images' ids, one per image or one per caption. Flickr30K's ids are the `imgid` of `dataset_flickr30k.json`.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import Struct

from mmnas.data.features import image_id_of
from mmnas.errors import DataError, MissingData
from mmnas.files import Int64, PathLike, read_json, read_utf8
from mmnas.schema import require_one_of, shown
from mmnas.text.vocabulary import warn_missing

log = logging.getLogger(__name__)

CAPTIONS_PER_IMAGE = 5


# The folder of each data set below `itm`, and its splits in the order of the vocabulary.
_LAYOUTS = {
    "flickr": ("f30k_precomp", ("train", "dev", "test")),
    "coco": ("coco_precomp", ("train", "dev", "test", "testall")),
}
DATASETS = tuple(_LAYOUTS)


class _Image(Struct):
    imgid: Int64
    filename: str


class _Index(Struct):
    """`dataset_flickr30k.json`."""

    images: list[_Image]


@dataclass(frozen=True)
class Captions:
    """One split: image ids (I,), as in the names of feature files; texts (C,), those of an image in a row.

    `owners` (C,) holds the row of each caption's image.
    """

    image_ids: Sequence[int] | np.ndarray
    texts: list[str]
    owners: np.ndarray
    ids: Sequence[int | str]
    """What a result calls the captions (C,): their lines, or one's own ids."""

    def of(self, images: slice) -> slice:
        """Return where the captions of consecutive images are."""
        first, last = np.searchsorted(self.owners, images.indices(len(self.image_ids))[:2])
        return slice(int(first), int(last))

    def images(self, start: int, stop: int | None) -> "Captions":
        """Return images `start` to `stop` (exclusive) with their captions."""
        captions = self.of(slice(start, stop))
        return Captions(
            self.image_ids[start:stop], self.texts[captions], self.owners[captions] - start, self.ids[captions]
        )


def splits_of(dataset: str) -> tuple[str, ...]:
    """Return the splits of a data set in the order of the vocabulary. Raises ConfigError for an unknown one."""
    require_one_of("data set", dataset, DATASETS)
    return _LAYOUTS[dataset][1]


def captions_path(data_path: PathLike, dataset: str, split: str) -> Path:
    """Return where the captions of a split lie; the ids lie beside them."""
    return Path(data_path) / "itm" / _LAYOUTS[dataset][0] / f"{split}_caps.txt"


def read_captions(path: PathLike) -> list[str]:
    """Return the lines of a captions file; the last line may end without a newline.

    Warns about empty captions and keeps them. Raises DataError when the file is missing or not UTF-8.
    """
    texts = _lines(Path(path), "captions file")
    empty = [number for number, text in enumerate(texts, start=1) if not text.strip()]
    if empty:
        log.warning("%s: line %d is empty (%d such): kept as captions without words", path, empty[0], len(empty))
    return texts


def caption_texts(data_path: PathLike, dataset: str) -> Iterator[str]:
    """Yield the captions of all splits. Warns about missing ones; raises `MissingData` when all are."""
    paths = {split: captions_path(data_path, dataset, split) for split in splits_of(dataset)}
    missing = [split for split, path in paths.items() if not path.is_file()]
    if len(missing) == len(paths):
        first = paths["train"]
        raise MissingData(f"no captions of {dataset} in {first.parent}: put {first.name} there")
    warn_missing("captions", missing)
    for split in [split for split in paths if split not in missing]:
        yield from read_captions(paths[split])


def read_split(data_path: PathLike, dataset: str, split: str) -> Captions:
    """Return one split. Raises DataError naming the file and what does not fit."""
    path = captions_path(data_path, dataset, split)
    texts = read_captions(path)
    ids = _image_ids(path.with_name(f"{split}_ids.txt"), path, len(texts))
    if dataset == "flickr":
        ids = _file_ids(ids, path.with_name(f"{split}_ids.txt"), Path(data_path) / "itm" / "dataset_flickr30k.json")
    return Captions(np.array(ids, np.int64), texts, np.arange(len(texts)) // CAPTIONS_PER_IMAGE, range(len(texts)))


def _lines(path: Path, what: str) -> list[str]:
    """Return the lines of a UTF-8 text file, which end at newlines only, not at other line separators."""
    text = read_utf8(path, what).decode()
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def _image_ids(path: Path, captions: Path, count: int) -> list[int]:
    """Return one id per image from a file with one line per image or one per caption."""
    lines = _lines(path, "ids file")
    for number, line in enumerate(lines, start=1):
        if not re.fullmatch(r"[ \t]*[0-9]{1,18}[ \t]*", line):
            raise DataError(f"{path}, line {number}: {shown(line)} is not an image id: an integer is expected")
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
    """Return the numbers in the names of the images' files for Flickr30K's `imgid`s."""
    numbers: dict[int, int] = {}
    for index, image in enumerate(read_json(path, "Flickr30K's index", kind=_Index).images):
        number = image_id_of(image.filename)
        if number is None:
            raise DataError(
                f"{path}: images[{index}].filename: expected a number and .jpg, not {shown(image.filename)}"
            )
        numbers[image.imgid] = number
    missing = [imgid for imgid in ids if imgid not in numbers]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"image {missing[0]}{more} of {ids_path} not in {path}: both must be of the same release")
    return [numbers[imgid] for imgid in ids]
