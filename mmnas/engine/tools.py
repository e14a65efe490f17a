"""What the engine lends a task that does more than run batches: the other processes, loading, progress."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from mmnas.engine.distributed import Group
from mmnas.engine.loading import BatchLoader
from mmnas.engine.logging import progress
from mmnas.tasks.base import Batch, SizedDataset, Tools


def tools_of(group: Group, workers: int) -> Tools:
    """Return the tools of a process in its group; `workers` load its batches."""

    def load(dataset: SizedDataset, batches: Sequence[list[int]], title: str) -> Iterator[Batch]:
        loader: Iterable[Batch] = BatchLoader(dataset, batches, workers, group.device)
        yield from progress(loader, title, group.rank, total=len(batches), leave=False)

    return Tools(group.rank, group.size, group.gather, partial(progress, rank=group.rank), load)
