"""Training a task's network (paper section 4.1, "implementation details")."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmnas.batch import Batch
from mmnas.config import Config
from mmnas.engine.distributed import Group
from mmnas.engine.evaluator import Evaluator
from mmnas.engine.fingerprint import fingerprint
from mmnas.engine.loop import EpochLoop
from mmnas.engine.steps import add_gradients, move_weights, seed_step
from mmnas.genotype import Genotype
from mmnas.models.network import MMNasNet
from mmnas.tasks.base import Task

log = logging.getLogger(__name__)


class Trainer(EpochLoop):
    """Trains a task's network epoch by epoch and scores val where it is held out."""

    run = "train"

    def __init__(
        self, task: Task, model: MMNasNet, genotype: Genotype, group: Group, folder: Path, keep_all: bool
    ) -> None:
        super().__init__(task, model, genotype, group, folder, keep_all)
        self.evaluator = Evaluator(task, "val", group) if task.scores_val else None
        if self.evaluator:
            self.data["val"] = fingerprint(self.evaluator.dataset)
        self.parallel = _parallel(model, self.config, group)

    def _take_step(self, batch: Batch, number: int, rate: float) -> Tensor:
        seed_step(self.config.training.seed, self.group.rank, number)
        loss = add_gradients(self.task, self.parallel, batch, self.group.device)
        norm = move_weights(self.model, self.optimizer, self.config.training.clip_norm, rate)
        return torch.stack([loss, norm])

    def _complete(self, row: dict[str, Any]) -> None:
        """Leave the score open where val is held out."""
        row["metrics"] = {} if self.evaluator is None else None
        if self.evaluator is None:
            log.info("epoch %d: loss %.4f", row["epoch"], row["loss"])

    def _unfinished(self) -> bool:
        return super()._unfinished() or self._unscored()

    def _unscored(self) -> bool:
        """Whether the last thing done is an epoch that is to be scored."""
        done = self.evaluator is not None and not self.step and bool(self.history)
        return done and self.history[-1]["metrics"] is None

    def _after_epoch(self) -> None:
        """Score val after a whole epoch, note the figures and save them, unless that is done."""
        if self.evaluator is None or not self._unscored():
            return
        with self.stop.at_once():
            figures = self.evaluator.run(self.parallel).summary
        self.scalars.add({f"val/{name}": value for name, value in figures.items()}, self.epoch * len(self.sampler))
        self.history[-1]["metrics"] = figures
        scored = "".join(f"  {name} {value:.2f}" for name, value in figures.items())
        log.info("epoch %d: loss %.4f; val%s", self.epoch, self.history[-1]["loss"], scored)
        self._save()


def _parallel(model: nn.Module, config: Config, group: Group) -> nn.Module:
    """Compile and make data parallel as asked; the parameters stay those of `model`."""
    if config.training.compile:
        model.compile()
    if group.size == 1:
        return model
    devices = [group.device] if group.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
