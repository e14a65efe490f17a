"""Scoring a split: every sample exactly once, over however many processes there are."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmnas.batch import Batch
from mmnas.data.samplers import EvaluationSampler
from mmnas.engine.distributed import Group
from mmnas.engine.loading import BatchLoader, lengths_of
from mmnas.engine.logging import progress
from mmnas.tasks.base import Result, SizedDataset, Task, Tools

log = logging.getLogger(__name__)


class Evaluator:
    """Holds a split's data; `run` scores a network on it as often as asked."""

    def __init__(self, task: Task, split: str, group: Group) -> None:
        self.task, self.split, self.group = task, split, group
        training = task.config.training
        dataset = task.evaluation_set(split)
        lengths = lengths_of(dataset) if training.buckets else None
        sampler = EvaluationSampler(len(dataset), training.eval_batch_size, group.rank, group.size, lengths)
        self.loader = BatchLoader(dataset, sampler, training.workers, group.device)
        self.samples = len(dataset)

    def run(self, network: nn.Module) -> Result:
        """Score `network`; all processes get the same result."""
        if isinstance(network, DistributedDataParallel):
            network = network.module  # processes run different numbers of batches
        training = self.task.config.training
        network.eval()
        with (
            torch.inference_mode(),
            torch.autocast(self.group.device.type, torch.bfloat16, enabled=training.precision == "bf16"),
        ):
            batches = progress(self.loader, self.split, self.group.rank, leave=False)
            return self.task.evaluate(network, batches, self.split, tools_of(self.group, training.workers))


def tools_of(group: Group, workers: int) -> Tools:
    """Return the tools of a process in its group; `workers` load its batches."""

    def load(dataset: SizedDataset, batches: Sequence[list[int]], title: str) -> Iterator[Batch]:
        loader: Iterable[Batch] = BatchLoader(dataset, batches, workers, group.device)
        yield from progress(loader, title, group.rank, total=len(batches), leave=False)

    return Tools(group.rank, group.size, group.gather, partial(progress, rank=group.rank), load)
