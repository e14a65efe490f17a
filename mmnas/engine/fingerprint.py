"""A fingerprint of data sets, by which a resumed run notices that its data has changed."""

import hashlib
from typing import Any

import msgspec
import numpy as np
from torch.utils.data import Dataset

from mmnas.data.ragged import Ragged
from mmnas.data.samples import SizedDataset


def fingerprint(*datasets: SizedDataset) -> str:
    """Return the number of samples and a hash of their ids, texts and labels in order, not of features."""
    content = msgspec.msgpack.encode(datasets, enc_hook=_plain)
    return f"{sum(map(len, datasets))} samples, sha256 {hashlib.sha256(content).hexdigest()[:16]}"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [value.dtype.str, value.shape, value.tobytes()]
    if isinstance(value, (Dataset, Ragged)):
        return {name: part for name, part in vars(value).items() if name != "regions"}
    return repr(value) if isinstance(value, (range, slice)) else None  # not the negatives: they change in training
