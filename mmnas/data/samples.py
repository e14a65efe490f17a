"""Samples of an image, and of a text about an image, read when asked for."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from mmnas.config import DataConfig
from mmnas.data.features import Regions, RegionSource
from mmnas.data.own import label
from mmnas.data.ragged import Ragged
from mmnas.data.store import region_counts
from mmnas.errors import DataError, MissingData
from mmnas.schema import shown
from mmnas.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)


class SizedDataset(Protocol):
    """A data set that knows how many samples it holds; torch's own type does not say so."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def weight_samples(count: int) -> int:
    """Return how many of `count` samples, the first ones, weights learn from in a search: 80 %."""
    if count < 2:
        raise DataError("the training split holds one sample: a search needs some for weights and some for alphas")
    return max(1, count * 4 // 5)


def require_images(source: RegionSource, image_ids: Iterable[int], what: str) -> None:
    """Raise `MissingData` naming the first image of `image_ids` without features and counting the rest."""
    missing = sorted(image_id for image_id in set(image_ids) if image_id not in source)
    if missing:
        more = {1: "", 2: " and 1 more image"}.get(len(missing), f" and {len(missing) - 1} more images")
        first = label(missing[0])
        if isinstance(first, str):
            names = f"{Path(first).name}.npz"
        else:
            names = f"{first}.npz or COCO_<split>_{first:012d}.jpg.npz"
        where = f"of the {what}; looked in {source.describe()}"
        remedy = f"for a file such as {names}; put it there or name its folder by --FEAT_PATH"
        raise MissingData(f"no region features for image {shown(first)}{more} {where} {remedy}")


def normalized(regions: Regions, image_id: int) -> str | None:
    """Return what is wrong with boxes that cannot be in pixels, else None."""
    if regions.boxes.max() <= 1 < regions.image_size.min():
        return f"the boxes of image {image_id} lie within 0..1: boxes must be in pixels"
    return None


def warn_if_normalized(regions: Regions, image_id: int) -> None:
    """Log what is wrong with boxes that cannot be in pixels."""
    if odd := normalized(regions, image_id):
        log.warning("%s", odd)


class ImageDataset(Dataset):
    """Images by their ids, each cut to its first `max_regions` regions."""

    def __init__(self, image_ids: Sequence[int] | np.ndarray, regions: RegionSource, max_regions: int) -> None:
        self.image_ids = np.asarray(image_ids, np.int64)
        self.regions, self.max_regions = regions, max_regions

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        sample = self.regions[int(self.image_ids[index])].sample(self.max_regions)
        return {**sample, "index": np.array(index, np.int64)}


class TextDataset(ImageDataset):
    """Texts, each about an image: token ids, and the image's regions."""

    def __init__(
        self,
        image_ids: Sequence[int],
        token_lists: Iterable[Sequence[str]],
        regions: RegionSource,
        words: Vocabulary,
        limits: DataConfig,
    ) -> None:
        super().__init__(image_ids, regions, limits.max_regions)
        self.tokens = Ragged((words.encode(tokens, limits.max_tokens) for tokens in token_lists), np.int32)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {**super().__getitem__(index), "tokens": self.tokens[index].astype(np.int64)}

    def region_counts(self) -> np.ndarray | None:
        """Return the number of regions of each sample, or None where they would have to be read."""
        return region_counts(self.regions, self.image_ids, self.max_regions)
