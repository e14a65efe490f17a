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

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

Batch = dict[str, Tensor]
Sample = Mapping[str, np.ndarray]


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad and stack samples into a batch.

    `features` (K, D), `boxes` (K, 4) and whatever is named `region_...` (K, ...) are padded over K, `tokens`
    (T,) over T, and masks, true where valid, are made from the lengths; everything else is stacked as it is.
    Samples may lack the regions, or the tokens.
    """
    arrays = {name: [sample[name] for sample in samples] for name in samples[0]}
    shapes = {name: (_shape(name, values), values[0].dtype) for name, values in arrays.items()}
    masks = [(mask, name) for mask, name in _MASKED if name in arrays]
    shapes |= {mask: (shapes[name][0][:2], np.dtype(bool)) for mask, name in masks}
    batch = {name: _empty(*shape) for name, shape in shapes.items()}
    for name, values in arrays.items():
        if _is_ragged(name):
            _fill(batch[name].numpy(), values)
        else:
            np.stack(values, out=batch[name].numpy())
    for mask, name in masks:
        lengths = np.array([[len(array)] for array in arrays[name]])  # (B, 1)
        np.less(np.arange(shapes[mask][0][1]), lengths, out=batch[mask].numpy())  # (B, longest)
    return batch


_MASKED = (("region_mask", "features"), ("token_mask", "tokens"))


def _is_ragged(name: str) -> bool:
    return name in ("features", "boxes", "tokens") or name.startswith("region_")


def _shape(name: str, arrays: Sequence[np.ndarray]) -> tuple[int, ...]:
    """Return the shape of a batch's tensor, padded over the samples' first axis or not."""
    if _is_ragged(name):
        return len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]
    return len(arrays), *arrays[0].shape


def _fill(rows: np.ndarray, arrays: Sequence[np.ndarray]) -> None:
    """Copy each sample's array into its row, zeros behind it."""
    for row, array in zip(rows, arrays, strict=True):
        if hasattr(array, "read_into"):  # features of a store, read from the disk right here
            array.read_into(row[: len(array)])
        else:
            row[: len(array)] = array
        row[len(array) :] = 0


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
    """Return a tensor of any content; a worker's lies in shared memory, so that it is sent without a copy."""
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    if get_worker_info() is None:
        return torch.empty(shape, dtype=kind)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=kind).set_(storage).view(shape)
