"""Batches on the device: worker processes, how their batches reach this process, errors that stay one line.

A worker writes each batch to a file in memory, which this process maps. So nothing large passes through a pipe, a
socket or /dev/shm, and an error of a worker travels as a value, since torch would wrap its message in a traceback.
"""

import errno
import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset, get_worker_info

from mmnas.batch import Batch, collate
from mmnas.data.samples import SizedDataset
from mmnas.engine.distributed import FILES, lacking_files
from mmnas.engine.placement import gather, store_of
from mmnas.engine.stopping import SIGNALS
from mmnas.errors import DataError, MMNasError, one_line

SAMPLES = 16  # read before the first step
MOST_TOKENS = 2**20  # so that tokens only order samples of as many regions
FILES_PER_WORKER = 8  # open files that each worker adds to FILES at most
PREFETCH = 2  # batches that each worker prepares ahead
log = logging.getLogger(__name__)


class BatchLoader:
    """Iterates over a data set's batches, of the samples that `sampler` lists, as dicts of tensors on `device`.

    Samples are collated as usual, or by the data set's own `collate` where it has one. `seconds_waited` is how long
    the latest iteration has waited for batches. Raises `MMNasError` for what the system refuses to
    `workers`, before they start, and in the iteration for whatever stops one.
    """

    def __init__(
        self, dataset: SizedDataset, sampler: Iterable[list[int]], workers: int, device: torch.device
    ) -> None:
        if workers:
            _check_limits(workers)
        self.device = device
        self._store = store_of(dataset)
        self.seconds_waited = 0.0
        self._loader = DataLoader(
            _Batches(dataset),
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCH if workers else None,
            worker_init_fn=_leave_signals_to_parent,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        self.seconds_waited = 0.0
        since = time.perf_counter()
        try:
            for batch in self._loader:
                batch = batch.read() if isinstance(batch, _InMemory) else batch
                if isinstance(batch, MMNasError):
                    raise batch
                on_device = self._on_device(batch)
                self.seconds_waited += time.perf_counter() - since
                yield on_device
                since = time.perf_counter()
        except OSError as exception:
            raise _limit_reached(exception.strerror or exception) from None

    def _on_device(self, batch: Batch) -> Batch:
        """Return a batch on the device, with features in place of the numbers of their rows."""
        moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        if self._store is not None and self._store.table is not None:
            moved["features"] = gather(self._store, batch["features"], moved["region_mask"])
        return moved


def lengths_of(dataset: Any) -> np.ndarray | None:
    """Return a length per sample, of its regions, then its tokens; None where regions would have to be read."""
    if isinstance(dataset, Subset):
        whole = lengths_of(dataset.dataset)
        return None if whole is None else whole[np.asarray(dataset.indices)]
    counts = getattr(dataset, "region_counts", lambda: None)()
    return None if counts is None else counts + dataset.tokens.lengths() / MOST_TOKENS


def dismiss_workers() -> None:
    """Kill the workers of this process, whatever they are doing; to be called before it ends.

    A process that exits sends its workers SIGTERM, which they ignore, and waits for them.
    """
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's own reports a killed worker as an error
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()
            worker.join(timeout=1.0)
    signal.signal(signal.SIGCHLD, handler)


def look_at(dataset: Any) -> Batch:
    """Return some samples of a map-style data set, from the first to the last, as training reads them; log sizes.

    Raises `DataError` naming the first damaged file. `check-data --full` reads everything.
    """
    indices = np.unique(np.linspace(0, len(dataset) - 1, SAMPLES).astype(int)).tolist()
    batch = getattr(dataset, "collate", collate)([dataset[index] for index in indices])
    regions, tokens = (batch[mask].sum(dim=1) for mask in ("region_mask", "token_mask"))
    log.info(
        "%d of %d training samples read: %d to %d regions, %d to %d tokens",
        len(indices), len(dataset), regions.min(), regions.max(), tokens.min(), tokens.max(),
    )  # fmt: skip
    return batch


def _check_limits(workers: int) -> None:
    """Raise `MMNasError` where the system lets no workers start, or lets them open too few files."""
    if lacking := lacking_files(FILES + FILES_PER_WORKER * workers):
        raise _limit_reached(lacking)
    try:
        multiprocessing.Queue().close()  # torch shows a traceback when it cannot have one
    except OSError as exception:
        raise _limit_reached(exception.strerror) from None


def _limit_reached(reason: object) -> MMNasError:
    """Return the error for what the system refuses to workers, or to the exchange with them."""
    return MMNasError(
        f"batches cannot be loaded ({reason}): workers need memory, processes (ulimit -u), open files (ulimit -n) "
        "and a writable /dev/shm; raise the limit, or use fewer workers, or none, --NW=0"
    )


class _Batches(Dataset):
    """Gives whole batches; an error of the user's, or of the system, is given in place of the batch."""

    def __init__(self, dataset: SizedDataset) -> None:
        self.dataset = dataset
        self.collate = getattr(dataset, "collate", collate)

    def __getitems__(self, indices: list[int]) -> "Batch | _InMemory | MMNasError":
        try:
            batch = self.collate([self.dataset[index] for index in indices])
            return _InMemory(batch) if get_worker_info() and hasattr(os, "memfd_create") else batch
        except MMNasError as exception:
            return exception
        except OSError as exception:
            about_file = exception.filename is not None and exception.errno not in (errno.EMFILE, errno.ENFILE)
            return DataError(one_line(exception)) if about_file else _limit_reached(exception.strerror)
        except MemoryError:
            return _limit_reached("out of memory")


class _InMemory:
    """A batch in a file in memory, on its way from a worker; on the way it is only the file's path."""

    # A worker has this many batches in hand, which the training process may have yet to open, and the next.
    _files: deque[BinaryIO] = deque(maxlen=PREFETCH + 1)

    def __init__(self, batch: Batch) -> None:
        arrays = {name: tensor.numpy() for name, tensor in batch.items()}
        file = open(os.memfd_create("batch"), "wb")  # noqa: SIM115 closed when it leaves the queue
        self._files.append(file)
        self._path, self._parts = f"/proc/{os.getpid()}/fd/{file.fileno()}", []
        for name, array in sorted(arrays.items(), key=lambda item: -item[1].itemsize):  # which aligns all of them
            self._parts.append((name, array.dtype, array.shape, file.tell()))
            file.write(np.ascontiguousarray(array).data)
        file.flush()

    def read(self) -> Batch:
        """Map the batch into this process."""
        content = np.memmap(self._path, np.uint8, "r+")
        parts = self._parts
        return {name: torch.from_numpy(np.ndarray(shape, dtype, content, at)) for name, dtype, shape, at in parts}

    def pin_memory(self) -> Batch | MMNasError:
        """Copy the batch to page-locked memory; torch calls this in a thread of its own."""
        try:
            return {name: tensor.pin_memory() for name, tensor in self.read().items()}
        except OSError as exception:
            return _limit_reached(exception.strerror)


def _unchanged(batch: Any) -> Any:
    return batch


def _leave_signals_to_parent(_: int) -> None:
    """Let the training process alone decide: a signal to the whole group must not take its workers."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
