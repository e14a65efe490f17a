"""The training loop: one readable loop for every task (paper section 4.1, "implementation details").

Each optimiser step seeds its random streams from (seed, rank, step), so that a run which stops after any
step goes on to the same bits.
"""

import contextlib
import logging
import signal
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmnas.config import Config
from mmnas.data.batching import TrainingSampler
from mmnas.engine.checkpoint import (
    Checkpoint,
    best_epoch,
    checkpoint_name,
    prune,
    save_checkpoint,
    versions,
)
from mmnas.engine.distributed import Group
from mmnas.engine.evaluator import Evaluator
from mmnas.engine.interrupt import InterruptedRun, StopSignal
from mmnas.engine.loading import BatchLoader
from mmnas.engine.logging import Scalars, progress
from mmnas.engine.schedule import schedule_of
from mmnas.engine.tools import tools_of
from mmnas.errors import CheckpointError, DataError
from mmnas.genotype import Genotype
from mmnas.tasks.base import Batch, Task

log = logging.getLogger(__name__)

# Losses leave the device, and processes agree whether to stop, once in this many steps.
REPORT_EVERY = 20
AGREE_EVERY = 10


class Trainer:
    """Trains a task's network epoch by epoch, scores val where it is held out, writes checkpoints."""

    def __init__(
        self, task: Task, model: nn.Module, genotype: Genotype, group: Group, folder: Path, keep_all: bool
    ) -> None:
        self.task, self.model, self.genotype, self.group = task, model, genotype, group
        self.config: Config = task.config
        self.folder, self.keep_all = folder, keep_all
        training = self.config.training
        dataset = task.training_set()
        self.sampler = TrainingSampler(len(dataset), training.batch_size, training.seed, group.rank, group.size)
        if not len(self.sampler):
            raise DataError(
                f"the training split holds {len(dataset)} samples, fewer than the {group.size} processes"
            )
        self.loader = BatchLoader(dataset, self.sampler, training.workers, group.device)
        self.evaluator = Evaluator(task, "val", group) if task.scores_val else None
        self.optimizer = _optimizer(model, self.config)
        self.learning_rate = schedule_of(self.config, len(self.sampler))
        self.network = _wrap(model, self.config, group)
        self.epoch, self.step = 0, 0
        self.loss_sum = 0.0
        self.history: list[dict] = []

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Take up where `checkpoint` stopped; its weights are loaded already."""
        same = (checkpoint.steps_per_epoch, checkpoint.processes) == (len(self.sampler), self.group.size)
        if checkpoint.step and not same:
            raise CheckpointError(
                f"{path} stopped within an epoch of {checkpoint.steps_per_epoch} steps on {checkpoint.processes} "
                f"processes; this run has {len(self.sampler)} on {self.group.size}: use the same data and as many "
                "devices, or a checkpoint of a whole epoch by --CKPT_PATH"
            )
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.epoch, self.step = checkpoint.epoch, checkpoint.step
        self.loss_sum = checkpoint.loss_sum
        self.history = list(checkpoint.history)
        if self.step:
            self.task.restore_state(checkpoint.task_state)

    def fit(self, scalars: Scalars) -> None:
        """Train up to `training.epochs`. Raises `InterruptedRun` after a signal, once all is saved."""
        epochs = self.config.training.epochs
        with StopSignal() as stop:
            self._score_epoch(scalars)  # a run that was stopped before or in its last epoch's scoring
            while self.epoch < epochs:
                self._train_epoch(epochs, scalars, stop)
                if self.step == len(self.sampler):
                    self._finish_epoch()
                self._save()
                self._interrupt_if_asked(stop)
                self._score_epoch(scalars)
                self._interrupt_if_asked(stop)
        log.info("trained %d epochs; the checkpoints are in %s", self.epoch, self.folder)

    def _train_epoch(self, epochs: int, scalars: Scalars, stop: StopSignal) -> None:
        """Go on from `self.step` to the epoch's end, or to the step after which to stop."""
        if not self.step:
            self._prepare_epoch()
        self.network.train()
        self.sampler.start(self.epoch, self.step)
        total, first = len(self.sampler), self.epoch * len(self.sampler)
        pending: list[Tensor] = []
        with progress(
            None, f"epoch {self.epoch + 1}/{epochs}", self.group.rank, total=total, initial=self.step
        ) as bar:
            for batch in self.loader:
                rate = self.learning_rate(first + self.step)
                pending.append(self._train_step(batch, first + self.step, rate))
                self.step += 1
                bar.update()
                if self.step == total or len(pending) == REPORT_EVERY:
                    loss = self._report(pending, first + self.step, rate, scalars)
                    bar.set_postfix(loss=f"{loss:.4g}", lr=f"{rate:.2g}")
                if self.step < total and self._must_stop(stop):
                    break
        if pending:
            self._report(pending, first + self.step, rate, scalars)

    def _prepare_epoch(self) -> None:
        """Let the task look at the network as the epoch finds it."""
        self.model.eval()
        with torch.inference_mode(), _autocast(self.config, self.group.device):
            tools = tools_of(self.group, self.config.training.workers)
            self.task.before_epoch(self.model, self.epoch, tools)

    def _train_step(self, batch: Batch, number: int, rate: float) -> Tensor:
        """Take one optimiser step; return loss and gradient norm (2,) still on the device."""
        torch.manual_seed(_step_seed(self.config.training.seed, self.group.rank, number))
        losses = []
        count = min(self.config.training.accumulate, len(batch["index"]))
        batch = self.task.with_totals(batch)
        parts = [batch] if count == 1 else self.task.parts(batch, count)
        for position, part in enumerate(parts):
            with self._synchronised(position == len(parts) - 1), _autocast(self.config, self.group.device):
                loss = self.task.loss(self.network, part)["total"]
            with self._synchronised(position == len(parts) - 1):
                loss.backward()
            losses.append(loss.detach())
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.training.clip_norm)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return torch.stack([torch.stack(losses).sum().float(), norm.float()])

    def _synchronised(self, last: bool) -> contextlib.AbstractContextManager:
        """Let gradients travel between processes only with a batch's last part."""
        if last or not isinstance(self.network, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.network.no_sync()

    def _report(self, pending: list[Tensor], step: int, rate: float, scalars: Scalars) -> float:
        """Fetch the pending losses, check them, write them; return their mean and empty the list."""
        values = torch.stack(pending).cpu()  # (steps, 2): loss, gradient norm
        bad = ~values.isfinite().all(dim=1)
        if bad.any():
            at = self.step - len(pending) + int(bad.int().argmax()) + 1
            raise DataError(
                f"loss or gradient is not finite in epoch {self.epoch + 1}, step {at}; the checkpoints before it "
                "are intact: look at that batch's features, or lower training.base_lr"
            )
        self.loss_sum += float(values[:, 0].double().sum())
        pending.clear()
        mean = values.mean(dim=0).tolist()
        scalars.add({"train/loss": mean[0], "train/gradient_norm": mean[1], "train/learning_rate": rate}, step)
        return mean[0]

    def _must_stop(self, stop: StopSignal) -> bool:
        if self.group.size > 1 and self.step % AGREE_EVERY:
            return False
        return self.group.any(stop.number != 0)

    def _interrupt_if_asked(self, stop: StopSignal) -> None:
        """Raise `InterruptedRun` when any process was asked to stop and there is something left to do."""
        unfinished = self.epoch < self.config.training.epochs or self._unscored()
        if self.group.any(stop.number != 0) and unfinished:
            path = self.folder / checkpoint_name(self.epoch, self.step)
            raise InterruptedRun(
                f"stopped after {self.epoch} epochs and {self.step} steps; saved {path}; "
                f"go on with --RUN=train --RESUME --VERSION={self.config.version}",
                stop.number or signal.SIGTERM,
            )

    def _finish_epoch(self) -> None:
        """Note the epoch in the history, its score still open where val is held out."""
        figures = {} if self.evaluator is None else None
        self.history.append({"epoch": self.epoch + 1, "loss": self.loss_sum / self.step, "metrics": figures})
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        if self.evaluator is None:
            log.info("epoch %d: loss %.4f", self.epoch, self.history[-1]["loss"])

    def _unscored(self) -> bool:
        return (
            self.evaluator is not None
            and not self.step
            and bool(self.history)
            and self.history[-1]["metrics"] is None
        )

    def _score_epoch(self, scalars: Scalars) -> None:
        """Score val after a whole epoch, note the figures and save them, unless that is done."""
        if not self._unscored():
            return
        figures = self.evaluator.run(self.network).summary
        scalars.add({f"val/{name}": value for name, value in figures.items()}, self.epoch * len(self.sampler))
        self.history[-1]["metrics"] = figures
        scored = "".join(f"  {name} {value:.2f}" for name, value in figures.items())
        log.info("epoch %d: loss %.4f; val%s", self.epoch, self.history[-1]["loss"], scored)
        self._save()

    def _save(self) -> None:
        """Write this moment's checkpoint on rank 0, drop those no longer kept; every process waits for it."""
        failure = None
        if self.group.rank == 0:
            try:
                save_checkpoint(self.folder / checkpoint_name(self.epoch, self.step), self._checkpoint())
                if not self.keep_all:
                    prune(self.folder, best_epoch(self.history, self.task.headline))
            except CheckpointError as exception:
                failure = exception
        failure = self.group.from_first(failure)
        if failure is not None:
            raise failure

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            config=self.config.to_dict(),
            genotype=self.genotype.to_dict(),
            vocabularies=self.task.vocabularies,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            epoch=self.epoch,
            step=self.step,
            steps_per_epoch=len(self.sampler),
            processes=self.group.size,
            loss_sum=self.loss_sum,
            task_state=self.task.state() if self.step else {},
            history=self.history,
            versions=versions(),
        )


def _optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    training = config.training
    if training.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=config.base_lr, momentum=training.momentum)
    return torch.optim.Adam(
        model.parameters(), lr=config.base_lr, betas=training.betas, eps=training.eps, fused=True
    )


def _wrap(model: nn.Module, config: Config, group: Group) -> nn.Module:
    """Compile and make data parallel as asked; the parameters stay those of `model`."""
    network = torch.compile(model, dynamic=True) if config.training.compile else model
    if group.size == 1:
        return network
    devices = [group.device] if group.device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices, gradient_as_bucket_view=True)


def _autocast(config: Config, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.training.precision == "bf16")


def _step_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
