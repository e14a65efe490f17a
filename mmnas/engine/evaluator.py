"""Scoring a split: every sample exactly once, over however many processes there are."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmnas.batch import Batch
from mmnas.data.samplers import EvaluationSampler
from mmnas.data.samples import SizedDataset
from mmnas.engine.distributed import Group
from mmnas.engine.loading import BatchLoader, lengths_of
from mmnas.engine.logging import progress
from mmnas.engine.placement import place_features
from mmnas.engine.steps import autocast
from mmnas.tasks.base import Result, Task, Tools


class Evaluator:
    """Holds a split's data; `run` scores a network on it as often as asked."""

    def __init__(self, task: Task, split: str, group: Group) -> None:
        self.task, self.split, self.group = task, split, group
        self.dataset = task.evaluation_set(split)
        place_features(task, self.dataset, group)
        self.samples, training = len(self.dataset), task.config.training
        lengths = lengths_of(self.dataset) if training.buckets else None
        sampler = EvaluationSampler(self.samples, training.eval_batch_size, group.rank, group.size, lengths)
        self.loader = BatchLoader(self.dataset, sampler, training.workers, group.device)

    def run(self, network: nn.Module) -> Result:
        """Score `network`; all processes get the same result."""
        if isinstance(network, DistributedDataParallel):
            network = network.module  # processes run different numbers of batches
        config = self.task.config
        network.eval()
        with torch.inference_mode(), autocast(config, self.group.device):
            batches = progress(self.loader, self.split, self.group.rank, leave=False)
            return self.task.evaluate(network, batches, self.dataset, tools_of(self.group, config.training.workers))


def tools_of(group: Group, workers: int) -> Tools:
    """Return the tools of a process in its group; `workers` processes load its batches."""

    def load(dataset: SizedDataset, batches: Sequence[list[int]], title: str) -> Iterator[Batch]:
        loader = BatchLoader(dataset, batches, workers, group.device)
        yield from progress(loader, title, group.rank, total=len(batches), leave=False)

    return Tools(group.rank, group.size, group.gather, partial(progress, rank=group.rank), load)
