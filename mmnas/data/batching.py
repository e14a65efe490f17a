"""Samples to batches, and which samples a process gets in which step.

A batch is padded to its own longest text and richest image, never further. The order of an epoch is a
function of seed and epoch alone, so that a run can go on anywhere.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor
from torch.utils.data import Sampler

from mmnas.data.batch_memory import new_batch

Sample = Mapping[str, np.ndarray]
# Steps sorted together: enough that a batch pads by a few percent, few enough that its samples stay random ones.
WINDOW = 32


def collate(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Pad and stack samples into a batch.

    `features` (K, D), `boxes` (K, 4) and whatever is named `region_...` (K, ...) are padded over K, `tokens`
    (T,) over T, and masks, true where valid, are made from the lengths; everything else is stacked as it is.
    Samples may lack the regions, or the tokens.
    """
    arrays = {name: [sample[name] for sample in samples] for name in samples[0]}
    shapes = {name: (_shape(name, values), values[0].dtype) for name, values in arrays.items()}
    masks = [(mask, name) for mask, name in _MASKED if name in arrays]
    shapes |= {mask: (shapes[name][0][:2], np.dtype(bool)) for mask, name in masks}
    batch = new_batch(shapes)
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
        row[: len(array)] = array
        row[len(array) :] = 0


class TrainingSampler(Sampler[list[int]]):
    """The batches of one process for one epoch.

    Every epoch is a permutation of the data set drawn from (seed, epoch). Each step takes the next
    `batch_size * processes` samples and deals them to the processes in turn; the last step of an epoch
    may be short, and is left out only where it holds fewer samples than there are processes. No sample
    is repeated.

    With `lengths` (samples,), such as counts of regions, batches hold samples of about one length: each
    `window` steps of the permutation are sorted by length and cut into steps anew, and all whole steps of the
    epoch are shuffled.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        lengths: np.ndarray | None = None,
        window: int = WINDOW,
    ) -> None:
        self.size = size
        self.step_size = batch_size * processes
        self.seed = seed
        self.rank = rank
        self.processes = processes
        self.lengths = lengths
        self.window = window
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
        order = self._order()
        for step in range(self.first_step, len(self)):
            chunk = order[step * self.step_size : (step + 1) * self.step_size]
            yield chunk[self.rank :: self.processes].tolist()

    def _order(self) -> np.ndarray:
        """Return the samples (size,) in the order of the epoch; those of the short step stay last."""
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.size)
        if self.lengths is not None:
            whole = self.size - self.size % self.step_size
            for first in range(0, whole, self.window * self.step_size):
                samples = order[first : min(first + self.window * self.step_size, whole)]
                samples[:] = samples[np.argsort(self.lengths[samples], kind="stable")]
            steps = order[:whole].reshape(-1, self.step_size)
            steps[:] = steps[rng.permutation(len(steps))]
        return order


class EvaluationSampler(Sampler[list[int]]):
    """Whole batches dealt to the processes in turn: every sample exactly once.

    The batches are those of a single process, so that any number of processes computes the same. With `lengths`
    (samples,) they hold samples of about one length, the shortest first.
    """

    def __init__(
        self, size: int, batch_size: int, rank: int = 0, processes: int = 1, lengths: np.ndarray | None = None
    ) -> None:
        self.order = np.arange(size) if lengths is None else np.argsort(lengths, kind="stable")
        self.batch_size = batch_size
        self.rank = rank
        self.processes = processes

    def __len__(self) -> int:
        batches = -(-len(self.order) // self.batch_size)
        return len(range(self.rank, batches, self.processes))

    def __iter__(self) -> Iterator[list[int]]:
        stride = self.batch_size * self.processes
        for first in range(self.rank * self.batch_size, len(self.order), stride):
            yield self.order[first : first + self.batch_size].tolist()
