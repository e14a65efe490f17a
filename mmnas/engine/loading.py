"""Batches on the device: worker processes, errors that stay one line, transfer.

An error in a worker travels as a value, since torch would wrap its message in a traceback.
"""

import logging
import signal
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from mmnas.batch import collate
from mmnas.data.samples import SizedDataset
from mmnas.engine.stopping import SIGNALS
from mmnas.errors import DataError, MMNasError, one_line

SAMPLES = 16  # read before the first step
MOST_TOKENS = 2**20  # so that tokens only order samples of as many regions
log = logging.getLogger(__name__)

_LOADERS: "weakref.WeakSet[BatchLoader]" = weakref.WeakSet()


class BatchLoader:
    """Iterates over a data set's batches, of the samples that `sampler` lists, as dicts of tensors on `device`.

    Samples are collated as usual, or by the data set's own `collate` where it has one. `seconds_waited` is how long
    the latest iteration has waited for batches.
    """

    def __init__(
        self, dataset: SizedDataset, sampler: Iterable[list[int]], workers: int, device: torch.device
    ) -> None:
        self.device = device
        self.seconds_waited = 0.0
        self._loader = DataLoader(
            _Batches(dataset),
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=_leave_signals_to_parent,
        )
        _LOADERS.add(self)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        self.seconds_waited = 0.0
        since = time.perf_counter()
        for batch in self._loader:
            if isinstance(batch, MMNasError):
                raise batch
            on_device = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
            self.seconds_waited += time.perf_counter() - since
            yield on_device
            since = time.perf_counter()


def lengths_of(dataset: Any) -> np.ndarray | None:
    """Return a length per sample, of its regions, then its tokens; None where regions would have to be read."""
    if isinstance(dataset, Subset):
        whole = lengths_of(dataset.dataset)
        return None if whole is None else whole[np.asarray(dataset.indices)]
    counts = getattr(dataset, "region_counts", lambda: None)()
    return None if counts is None else counts + dataset.tokens.lengths() / MOST_TOKENS


def dismiss_workers() -> None:
    """End the workers of all loaders; to be called before a process ends.

    A process that exits sends its workers SIGTERM and waits for them, and they ignore SIGTERM.
    """
    for loader in list(_LOADERS):
        iterator = loader._loader._iterator
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()


class _Batches(Dataset):
    """Gives whole batches; an error of the user's, or of the disk, is given in place of the batch."""

    def __init__(self, dataset: SizedDataset) -> None:
        self.dataset = dataset
        self.collate = getattr(dataset, "collate", collate)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor] | MMNasError:
        try:
            return self.collate([self.dataset[index] for index in indices])
        except MMNasError as exception:
            return exception
        except OSError as exception:
            return DataError(one_line(exception))


def _unchanged(batch: Any) -> Any:
    return batch


def _leave_signals_to_parent(_: int) -> None:
    """Let the training process alone decide: a signal to the whole group must not take its workers."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def look_at(dataset: Any) -> None:
    """Read some samples of a map-style data set, from the first to the last, as training does, and log their sizes.

    Raises `DataError` naming the first damaged file. `check-data --full` reads everything.
    """
    indices = np.unique(np.linspace(0, len(dataset) - 1, SAMPLES).astype(int)).tolist()
    batch = getattr(dataset, "collate", collate)([dataset[index] for index in indices])
    regions, tokens = (batch[mask].sum(dim=1) for mask in ("region_mask", "token_mask"))
    log.info(
        "%d of %d training samples read: %d to %d regions, %d to %d tokens",
        len(indices), len(dataset), regions.min(), regions.max(), tokens.min(), tokens.max(),
    )  # fmt: skip
