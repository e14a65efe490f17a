"""Samples for image-text matching: images alone to score, and pairs with their negatives to train on.

Images and captions are numbered by their rows in a split: the captions of image i are 5 i to 5 i + 4.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmnas.batch import collate
from mmnas.data.features import RegionSource
from mmnas.data.ragged import Ragged
from mmnas.data.scan_precomp import CAPTIONS_PER_IMAGE
from mmnas.data.store import region_counts


class ImageDataset(Dataset):
    """The images of a split; features are read when an image is asked for."""

    def __init__(self, image_ids: np.ndarray, regions: RegionSource, max_regions: int) -> None:
        self.image_ids = image_ids
        self.regions = regions
        self.max_regions = max_regions

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image = self.regions[int(self.image_ids[index])]
        return {
            "features": image.features[: self.max_regions],
            "boxes": image.boxes[: self.max_regions],
            "image_sizes": image.image_size,
            "index": np.array(index, np.int64),
        }


class PairDataset(Dataset):
    """Captions with their image, a negative caption and a negative image.

    `negatives` (C, 2) holds each caption's negative caption and negative image; it lies in shared memory, so
    that workers that run already see what is drawn for the next epoch.
    """

    def __init__(self, images: ImageDataset, tokens: Ragged) -> None:
        self.images = images
        self.tokens = tokens
        self.negatives = torch.zeros(len(tokens), 2, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        caption, image = self.negatives[index].tolist()
        return {
            "index": np.array(index, np.int64),
            "captions": np.array([index, caption]),
            "images": np.array([index // CAPTIONS_PER_IMAGE, image]),
        }

    def region_counts(self) -> np.ndarray | None:
        """Return the regions of each caption's own image where the source knows them."""
        counts = region_counts(self.images.regions, self.images.image_ids, self.images.max_regions)
        return None if counts is None else counts.repeat(CAPTIONS_PER_IMAGE)

    def collate(self, samples: Sequence[dict[str, np.ndarray]]) -> dict[str, Tensor]:
        """Return a batch that holds every image and caption of its samples once, each read here and only once.

        `image_rows` and `caption_rows` (B, 2) say which rows are each sample's positive and negative.
        """
        images, image_rows = _distinct([sample["images"] for sample in samples])
        captions, caption_rows = _distinct([sample["captions"] for sample in samples])
        regions = collate([self.images[int(image)] for image in images])
        tokens = collate([{"tokens": self.tokens[int(caption)].astype(np.int64)} for caption in captions])
        index = torch.tensor([int(sample["index"]) for sample in samples])
        regions.update(tokens, index=index, image_rows=image_rows, caption_rows=caption_rows)
        return regions


def _distinct(pairs: Sequence[np.ndarray]) -> tuple[np.ndarray, Tensor]:
    """Return the distinct numbers in pairs (B, 2), and the place of each pair's numbers among them."""
    numbers, places = np.unique(np.stack(pairs), return_inverse=True)
    return numbers, torch.from_numpy(places.reshape(-1, 2))


def stack_tokens(tokens: Ragged, captions: np.ndarray, device: torch.device) -> Tensor:
    """Return the token ids (captions, T) of captions of one length, on the device."""
    return torch.from_numpy(np.stack([tokens[int(caption)] for caption in captions]).astype(np.int64)).to(device)
