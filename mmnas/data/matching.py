"""Samples for image-text matching: images to score with captions, and pairs with negatives to train on.

Images and captions are numbered by their rows in a split: the captions of image i are 5 i to 5 i + 4.
"""

import mmap
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmnas.batch import Batch, collate
from mmnas.data.ragged import Ragged
from mmnas.data.samples import ImageDataset
from mmnas.data.scan_precomp import Captions
from mmnas.data.store import region_counts


class RetrievalDataset(ImageDataset):
    """The images of a split to score, with its captions; `folds` are slices of images scored on their own."""

    def __init__(self, images: ImageDataset, captions: Captions, tokens: Ragged, folds: Sequence[slice]) -> None:
        super().__init__(images.image_ids, images.regions, images.max_regions)
        self.captions, self.tokens, self.folds = captions, tokens, folds


class PairDataset(Dataset):
    """Captions with their image, whose row `owners` (C,) holds, a negative caption and a negative image.

    `negatives` (C, 2) holds each caption's negative caption and negative image; it lies in memory that running
    workers share, and so see what is drawn for the next epoch, but not in /dev/shm, which may have no space.
    """

    def __init__(self, images: ImageDataset, tokens: Ragged, owners: np.ndarray) -> None:
        self.images, self.tokens, self.owners = images, tokens, owners
        self.negatives = torch.frombuffer(mmap.mmap(-1, 16 * len(tokens)), dtype=torch.int64).view(-1, 2)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        caption, image = self.negatives[index].tolist()
        return {
            "index": np.array(index, np.int64),
            "captions": np.array([index, caption]),
            "images": np.array([self.owners[index], image]),
        }

    def region_counts(self) -> np.ndarray | None:
        """Return the number of regions of each caption's own image, or None where they would have to be read."""
        counts = region_counts(self.images.regions, self.images.image_ids, self.images.max_regions)
        return None if counts is None else counts[self.owners]

    def collate(self, samples: Sequence[dict[str, np.ndarray]]) -> Batch:
        """Return a batch that holds every image and caption of its samples once; each is read only here.

        `image_rows` and `caption_rows` (B, 2) give the rows of each sample's positive and negative.
        """
        images, image_rows = _distinct([sample["images"] for sample in samples])
        captions, caption_rows = _distinct([sample["captions"] for sample in samples])
        batch = collate([self.images[int(image)] for image in images])
        tokens = collate([{"tokens": self.tokens[int(caption)].astype(np.int64)} for caption in captions])
        index = torch.tensor([int(sample["index"]) for sample in samples])
        return {**batch, **tokens, "index": index, "image_rows": image_rows, "caption_rows": caption_rows}


def _distinct(pairs: Sequence[np.ndarray]) -> tuple[np.ndarray, Tensor]:
    """Return the distinct numbers in pairs (B, 2), and the index among them of each number of the pairs."""
    numbers, indices = np.unique(np.stack(pairs), return_inverse=True)
    return numbers, torch.from_numpy(indices.reshape(-1, 2))


def stack_tokens(tokens: Ragged, captions: np.ndarray, device: torch.device) -> Tensor:
    """Return the token ids (captions, T) of captions of one length, on the device."""
    return torch.from_numpy(np.stack([tokens[int(caption)] for caption in captions]).astype(np.int64)).to(device)
