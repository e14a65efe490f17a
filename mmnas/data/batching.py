"""Samples to batches, and which samples a process gets in which step.

A batch is padded to its own longest text and richest image, never further. The order of an epoch is a
function of seed and epoch alone, so that a run can go on anywhere.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

Sample = Mapping[str, np.ndarray]


def collate(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Pad and stack samples into a batch.

    `features` (K, D), `boxes` (K, 4) and whatever is named `region_...` (K, ...) are padded over K, `tokens`
    (T,) over T, and masks, true where valid, are made from the lengths; everything else is stacked as it is.
    Samples may lack the regions, or the tokens.
    """
    batch = {}
    for name in samples[0]:
        arrays = [sample[name] for sample in samples]
        padded = name in ("features", "boxes", "tokens") or name.startswith("region_")
        batch[name] = _pad(arrays) if padded else torch.from_numpy(np.stack(arrays))
    for name, mask in (("features", "region_mask"), ("tokens", "token_mask")):
        if name in batch:
            batch[mask] = _mask([len(sample[name]) for sample in samples])
    return batch


def _pad(arrays: Sequence[np.ndarray]) -> Tensor:
    length = max(map(len, arrays))
    padded = torch.zeros((len(arrays), length, *arrays[0].shape[1:]), dtype=torch.from_numpy(arrays[0][:0]).dtype)
    view = padded.numpy()
    for row, array in zip(view, arrays, strict=True):
        row[: len(array)] = array
    return padded


def _mask(lengths: Sequence[int]) -> Tensor:
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]  # (B, longest)


class TrainingSampler(Sampler[list[int]]):
    """The batches of one process for one epoch.

    Every epoch is a permutation of the data set drawn from (seed, epoch). Each step takes the next
    `batch_size * processes` samples and deals them to the processes in turn; the last step of an epoch
    may be short, and is left out only where it holds fewer samples than there are processes. No sample
    is repeated.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1) -> None:
        self.size = size
        self.step_size = batch_size * processes
        self.seed = seed
        self.rank = rank
        self.processes = processes
        self.epoch = 0
        self.first_step = 0

    def __len__(self) -> int:
        """Return the steps of a whole epoch."""
        full, rest = divmod(self.size, self.step_size)
        return full + (rest >= self.processes)

    def start(self, epoch: int, first_step: int = 0) -> None:
        """Choose the epoch that the next iteration gives, leaving out its first steps."""
        self.epoch, self.first_step = epoch, first_step

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        for step in range(self.first_step, len(self)):
            chunk = order[step * self.step_size : (step + 1) * self.step_size]
            yield chunk[self.rank :: self.processes].tolist()


class EvaluationSampler(Sampler[list[int]]):
    """Whole batches dealt to the processes in turn: every sample exactly once.

    The batches are those of a single process, so that any number of processes computes the same.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, processes: int = 1) -> None:
        self.size = size
        self.batch_size = batch_size
        self.rank = rank
        self.processes = processes

    def __len__(self) -> int:
        batches = -(-self.size // self.batch_size)
        return len(range(self.rank, batches, self.processes))

    def __iter__(self) -> Iterator[list[int]]:
        stride = self.batch_size * self.processes
        for first in range(self.rank * self.batch_size, self.size, stride):
            yield list(range(first, min(first + self.batch_size, self.size)))
