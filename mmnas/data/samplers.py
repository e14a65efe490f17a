"""Which samples a process gets in which step.

The order of an epoch is a function of seed and epoch alone, so that a run can go on anywhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

# Steps sorted together: enough that a batch pads by a few percent, few enough that its samples stay random ones.
WINDOW = 32


@dataclass(eq=False)
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

    size: int
    batch_size: int
    seed: int
    rank: int = 0
    processes: int = 1
    lengths: np.ndarray | None = None
    window: int = WINDOW

    def __post_init__(self) -> None:
        self.step_size = self.batch_size * self.processes
        self.start(epoch=0)

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
