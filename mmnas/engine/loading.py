"""Batches on the device: worker processes, errors that stay one line, transfer.

An error in a worker travels as a value, since torch would wrap its message in a traceback.
"""

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mmnas.data.batching import collate
from mmnas.errors import MMNasError


class BatchLoader:
    """Iterates over a data set's batches as dicts of tensors on `device`."""

    def __init__(self, dataset: Dataset, sampler: Sampler[list[int]], workers: int, device: torch.device) -> None:
        self.device = device
        self._loader = DataLoader(
            _ErrorsAsValues(dataset),
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_collate_unless_error,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=_leave_signals_to_parent,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self._loader:
            if isinstance(batch, MMNasError):
                raise batch
            yield {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}


class _ErrorsAsValues(Dataset):
    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except MMNasError as exception:
            return exception


def _collate_unless_error(samples: list[Any]) -> Any:
    errors = [sample for sample in samples if isinstance(sample, MMNasError)]
    return errors[0] if errors else collate(samples)


def _leave_signals_to_parent(_: int) -> None:
    """Let the training process alone decide: a signal to the whole group must not take its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
