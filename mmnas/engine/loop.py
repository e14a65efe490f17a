"""The loop over epochs and steps that training and search share: order, stopping, saving, resuming.

Each optimiser step seeds its random streams from (seed, rank, step), so that a run which stops after any
step goes on to the same bits.
"""

import contextlib
import logging
import signal
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmnas.batch import Batch
from mmnas.config import Config
from mmnas.data.samplers import TrainingSampler
from mmnas.engine.checkpoint import (
    Checkpoint,
    best_epoch,
    checkpoint_name,
    prune,
    save_checkpoint,
    versions,
)
from mmnas.engine.checkpoint_values import unusable
from mmnas.engine.distributed import Group
from mmnas.engine.evaluator import tools_of
from mmnas.engine.loading import BatchLoader, lengths_of
from mmnas.engine.logging import Scalars, progress
from mmnas.engine.optimizer import optimizer_of, restore_optimizer, schedule_of
from mmnas.engine.stopping import InterruptedRun, StopSignal
from mmnas.errors import CheckpointError, DataError
from mmnas.genotype import Genotype
from mmnas.models.network import MMNasNet
from mmnas.tasks.base import SizedDataset, Task

log = logging.getLogger(__name__)

# Losses leave the device, and processes agree whether to stop, once in this many steps.
REPORT_EVERY = 20
AGREE_EVERY = 10


class EpochLoop(ABC):
    """Takes optimiser steps epoch by epoch and writes checkpoints; subclasses say what a step and an epoch are."""

    run: str
    """The value of --RUN, for messages."""

    def __init__(
        self,
        task: Task,
        model: MMNasNet,
        genotype: Genotype,
        group: Group,
        folder: Path,
        keep_all: bool,
        dataset: SizedDataset,
    ) -> None:
        self.task, self.model, self.genotype, self.group = task, model, genotype, group
        self.config: Config = task.config
        self.folder, self.keep_all = folder, keep_all
        self.dataset = dataset
        self.loader, self.sampler = self._load(dataset)
        self.seen_splits = [self.config.split]
        self.optimizer = optimizer_of(model, self.config)
        self.learning_rate = schedule_of(self.config, len(self.sampler))
        self.epoch, self.step = 0, 0
        self.loss_sum = 0.0
        self.history: list[dict] = []

    def _load(self, dataset: SizedDataset) -> tuple[BatchLoader, TrainingSampler]:
        training = self.config.training
        lengths = lengths_of(dataset) if training.buckets else None
        sampler = TrainingSampler(
            len(dataset), training.batch_size, training.seed, self.group.rank, self.group.size, lengths
        )
        if not len(sampler):
            raise DataError(
                f"the training split holds {len(dataset)} samples, fewer than the {self.group.size} processes"
            )
        return BatchLoader(dataset, sampler, training.workers, self.group.device), sampler

    @abstractmethod
    def _take_step(self, batch: Batch, number: int, rate: float) -> Tensor:
        """Take optimiser step `number` of the run; return loss and gradient norm (2,) still on the device."""

    @abstractmethod
    def _notes(self) -> dict[str, Any]:
        """Return what the history is to hold of the epoch beside its number and loss: `metrics` at least."""

    @abstractmethod
    def _log_epoch(self, row: dict[str, Any]) -> None:
        """Say what the history holds of the epoch that is behind."""

    @abstractmethod
    def _network(self) -> MMNasNet:
        """Return the network that the task prepares an epoch with."""

    def _after_epoch(self, scalars: Scalars) -> None:
        """Do what a whole epoch is followed by, once it is saved; also called before the first."""
        return

    def _unfinished(self) -> bool:
        """Whether there are epochs left."""
        return self.epoch < self.config.training.epochs

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Take up where `checkpoint` stopped; its weights are loaded already."""
        same = (checkpoint.steps_per_epoch, checkpoint.processes) == (len(self.sampler), self.group.size)
        if checkpoint.step and not same:
            raise CheckpointError(
                f"{path} stopped within an epoch of {checkpoint.steps_per_epoch} steps on {checkpoint.processes} "
                f"processes; this run has {len(self.sampler)} on {self.group.size}: use the same data and as many "
                "devices, or a checkpoint of a whole epoch by --CKPT_PATH"
            )
        restore_optimizer(self.optimizer, checkpoint.optimizer, path)
        self.epoch, self.step = checkpoint.epoch, checkpoint.step
        self.loss_sum = checkpoint.loss_sum
        self.history = list(checkpoint.history)
        self.seen_splits = list(checkpoint.seen_splits)
        if self.step:
            self.task.restore_state(checkpoint.task_state)

    def fit(self, scalars: Scalars) -> None:
        """Go on to the last epoch. Raises `InterruptedRun` after a signal, once all is saved."""
        with StopSignal() as stop:
            self._after_epoch(scalars)  # a run that was stopped before or in what follows its last epoch
            while self._unfinished():
                self._run_epoch(scalars, stop)
                if self.step == len(self.sampler):
                    self._finish_epoch()
                self._save()
                self._interrupt_if_asked(stop)
                self._after_epoch(scalars)
                self._interrupt_if_asked(stop)
        log.info("trained %d epochs; the checkpoints are in %s", self.epoch, self.folder)

    def _run_epoch(self, scalars: Scalars, stop: StopSignal) -> None:
        """Go on from `self.step` to the epoch's end, or to the step after which to stop."""
        if not self.step:
            self._prepare_epoch()
        self.model.train()
        self.sampler.start(self.epoch, self.step)
        total, first = len(self.sampler), self.epoch * len(self.sampler)
        title = f"epoch {self.epoch + 1}/{self.config.training.epochs}"
        pending: list[Tensor] = []
        begin = time.perf_counter()
        with progress(None, title, self.group.rank, total=total, initial=self.step) as bar:
            for batch in self.loader:
                rate = self.learning_rate(first + self.step)
                pending.append(self._take_step(batch, first + self.step, rate))
                self.step += 1
                bar.update()
                if self.step == total or len(pending) == REPORT_EVERY:
                    loss = self._report(pending, first + self.step, rate, scalars)
                    bar.set_postfix(loss=f"{loss:.4g}", lr=f"{rate:.2g}")
                if self.step < total and self._must_stop(stop):
                    break
        if pending:
            self._report(pending, first + self.step, rate, scalars)
        fault = unusable(self.model.state_dict())  # no loss has met what the last step did
        if fault is not None:
            self._refuse_to_go_on(self.step, fault)
        waited = self.loader.seconds_waited / (time.perf_counter() - begin)
        log.info("epoch %d: %.0f %% of the time spent waiting for data", self.epoch + 1, 100 * waited)

    def _finish_epoch(self) -> None:
        """Note the epoch in the history and count it; it is saved next."""
        notes = self._notes()
        self.history.append({"epoch": self.epoch + 1, "loss": self.loss_sum / self.step, **notes})
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        self._log_epoch(self.history[-1])

    def _prepare_epoch(self) -> None:
        """Let the task look at the network as the epoch finds it."""
        self.model.eval()
        with torch.inference_mode(), self._autocast():
            tools = tools_of(self.group, self.config.training.workers)
            self.task.before_epoch(self._network(), self.epoch, tools)

    def _seed_step(self, *numbers: int) -> None:
        """Seed the streams of this process for the step that `numbers` name."""
        torch.manual_seed(seed_of(self.config.training.seed, self.group.rank, *numbers))

    def _backward(self, network: nn.Module, batch: Batch) -> Tensor:
        """Add up the gradients of a batch, in parts where configured; return its loss."""
        losses = []
        count = min(self.config.training.accumulate, len(batch["index"]))
        batch = self.task.with_totals(batch)
        parts = [batch] if count == 1 else self.task.parts(batch, count)
        for position, part in enumerate(parts):
            with self._synchronised(position == len(parts) - 1):
                with self._autocast():
                    loss = self.task.loss(network, part)["total"]
                loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum().float()

    def _synchronised(self, last: bool) -> contextlib.AbstractContextManager:
        """Let gradients travel between processes only with a batch's last part, where that happens in backward."""
        return contextlib.nullcontext()

    def _move_weights(self, rate: float) -> Tensor:
        """Clip the gradients, let the optimiser step at the learning rate, return the norm before."""
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.training.clip_norm)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.float()

    def _autocast(self) -> torch.autocast:
        enabled = self.config.training.precision == "bf16"
        return torch.autocast(self.group.device.type, torch.bfloat16, enabled=enabled)

    def _report(self, pending: list[Tensor], step: int, rate: float, scalars: Scalars) -> float:
        """Fetch the pending losses, check them, write them; return their mean and empty the list."""
        values = torch.stack(pending).cpu()  # (steps, 2): loss, gradient norm
        bad = ~values.isfinite().all(dim=1)
        if bad.any():
            self._refuse_to_go_on(self.step - len(pending) + int(bad.int().argmax()) + 1)
        self.loss_sum += float(values[:, 0].double().sum())
        pending.clear()
        mean = values.mean(dim=0).tolist()
        scalars.add({"train/loss": mean[0], "train/gradient_norm": mean[1], "train/learning_rate": rate}, step)
        return mean[0]

    def _refuse_to_go_on(self, step: int, fault: str = "loss or gradient is not finite") -> None:
        raise DataError(
            f"{fault} in epoch {self.epoch + 1}, step {step}; the checkpoints before it are intact: look at that "
            "batch's features, or lower training.base_lr"
        )

    def _must_stop(self, stop: StopSignal) -> bool:
        if self.group.size > 1 and self.step % AGREE_EVERY:
            return False
        return self.group.any(stop.number != 0)

    def _interrupt_if_asked(self, stop: StopSignal) -> None:
        """Raise `InterruptedRun` when any process was asked to stop and there is something left to do."""
        if self.group.any(stop.number != 0) and self._unfinished():
            path = self.folder / checkpoint_name(self.epoch, self.step)
            raise InterruptedRun(
                f"stopped after {self.epoch} epochs and {self.step} steps; saved {path}; "
                f"go on with --RUN={self.run} --RESUME --VERSION={self.config.version}",
                stop.number or signal.SIGTERM,
            )

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
            seen_splits=self.seen_splits,
            versions=versions(),
        )


def seed_of(*numbers: int) -> int:
    """Return a seed below 2^63 that the numbers determine, and no others are likely to give."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
