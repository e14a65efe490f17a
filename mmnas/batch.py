"""A batch: names and shapes, and how samples become one.

A batch is a dict of named tensors (B samples, N regions, T tokens, D feature size; masks true where valid):

    features (B, N, D) float32     region_mask (B, N) bool
    boxes (B, N, 4) float32        xyxy pixels, zero where padded
    image_sizes (B, 2) float32     height, width in pixels
    tokens (B, T) int64            token_mask (B, T) bool; padded with id 0
    index (B,) int64               the sample's place in its data set

and the task's own targets; those named `region_...` are (B, N, ...) and padded as the regions are.
A batch for matching holds each image and caption once; `image_rows` and `caption_rows` (B, 2) then say which
rows are a sample's own and which its negative.

A batch is padded to its own longest text and richest image, never further.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

Batch = dict[str, Tensor]
Sample = Mapping[str, np.ndarray]


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad and stack samples into a batch.

    `features` (K, D), `boxes` (K, 4) and whatever is named `region_...` (K, ...) are padded over K, `tokens`
    (T,) over T, and masks, true where valid, are made from the lengths; everything else is stacked as it is.
    Samples may lack the regions, or the tokens.
    """
    batch = {}
    for name in samples[0]:
        arrays = [sample[name] for sample in samples]
        ragged = name in ("features", "boxes", "tokens") or name.startswith("region_")
        batch[name] = torch.from_numpy(_pad(arrays) if ragged else np.stack(arrays))
    for mask, name in (("region_mask", "features"), ("token_mask", "tokens")):
        if name in batch:
            lengths = np.array([[len(sample[name])] for sample in samples])  # (B, 1)
            batch[mask] = torch.from_numpy(np.arange(batch[name].shape[1]) < lengths)  # (B, longest)
    return batch


def _pad(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Stack arrays (K, ...), zeros behind the shorter ones, as (B, longest, ...)."""
    rows = np.zeros((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(rows, arrays, strict=True):
        row[: len(array)] = array
    return rows
