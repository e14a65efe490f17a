"""The loop over epochs and steps that training and search share: order, stopping, saving, resuming.

Each optimizer step seeds its random streams from (seed, rank, step), so that a run which was stopped after any
step resumes to the same bits.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from signal import SIGALRM
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmnas.config import Config
from mmnas.data.samplers import TrainingSampler
from mmnas.data.samples import SizedDataset
from mmnas.engine.checkpoint import Checkpoint, best_epoch, checkpoint_name, prune, save_checkpoint, versions
from mmnas.engine.checkpoint_values import unusable
from mmnas.engine.distributed import Group
from mmnas.engine.evaluator import tools_of
from mmnas.engine.fingerprint import fingerprint, require_same
from mmnas.engine.loading import BatchLoader, lengths_of
from mmnas.engine.logging import Scalars, progress
from mmnas.engine.optimizer import optimizer_of, restore_optimizer, schedule_of
from mmnas.engine.steps import autocast
from mmnas.engine.stopping import InterruptedRun, StopSignal
from mmnas.errors import CheckpointError, DataError
from mmnas.genotype import Genotype
from mmnas.models.network import MMNasNet
from mmnas.tasks.base import Task

log = logging.getLogger(__name__)

REPORT_EVERY = 20  # steps after which losses leave the device


class EpochLoop(ABC):
    """Takes optimizer steps epoch by epoch and writes checkpoints; subclasses say what a step and an epoch are.

    Weights learn from the first of `datasets`; the task prepares all of them for an epoch. `PROGRESS` is what
    checkpoints take over as it is.
    """

    PROGRESS = ("epoch", "step", "loss_sum", "history", "seen_splits", "data")
    run: ClassVar[str]
    """The value of --RUN, for messages."""

    def __init__(
        self, task: Task, model: MMNasNet, genotype: Genotype, group: Group, folder: Path, keep_all: bool
    ) -> None:
        self.task, self.model, self.genotype, self.group = task, model, genotype, group
        self.config: Config = task.config
        self.folder, self.keep_all = folder, keep_all
        self.datasets: Sequence[SizedDataset] = (
            task.search_sets() if self.run == "search" else [task.training_set()]
        )
        self.dataset = self.datasets[0]
        self.loader, self.sampler = self._load(self.dataset)
        self.seen_splits = [self.config.split]
        self.written: set[str] = set()  # names of this run's checkpoints in `folder`; no others are removed
        self.optimizer = optimizer_of(model, self.config)
        self.learning_rate = schedule_of(self.config, len(self.sampler))
        self.stop = StopSignal()
        self.epoch, self.step, self.loss_sum = 0, 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.data = {"training data": fingerprint(*self.datasets)}
        if task.made_by:
            self.data["features"] = str(task.made_by)

    def _load(self, dataset: SizedDataset) -> tuple[BatchLoader, TrainingSampler]:
        training, group = self.config.training, self.group
        lengths = lengths_of(dataset) if training.buckets else None
        sampler = TrainingSampler(len(dataset), training.batch_size, training.seed, group.rank, group.size, lengths)
        if not len(sampler):
            raise DataError(
                f"the training split holds {len(dataset)} samples, fewer than the {group.size} processes"
            )
        return BatchLoader(dataset, sampler, training.workers, group.device), sampler

    @abstractmethod
    def _take_step(self, batch: Any, number: int, rate: float) -> Tensor:
        """Take optimizer step `number` of the run; return loss and gradient norm (2,) still on the device."""

    @abstractmethod
    def _complete(self, row: dict[str, Any]) -> None:
        """Add to the finished epoch's row of the history, which holds its number and loss: `metrics` at least."""

    def _after_epoch(self) -> None:
        """Do what follows a whole epoch, once it is saved; also called before the first."""
        return

    def _network(self) -> MMNasNet:
        """Return the network that the task prepares an epoch with."""
        return self.model

    def _unfinished(self) -> bool:
        """Whether there are epochs left."""
        return self.epoch < self.config.training.epochs

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Continue where `checkpoint` stopped; its weights are loaded already."""
        now = {**self.data, "processes": self.group.size, "steps per epoch": len(self.sampler)}
        require_same(now, checkpoint, path)
        restore_optimizer(self.optimizer, checkpoint.optimizer, path)
        self.epoch, self.history, self.seen_splits = checkpoint.epoch, checkpoint.history, checkpoint.seen_splits
        if checkpoint.step:
            self.step, self.loss_sum = checkpoint.step, checkpoint.loss_sum
            try:
                self.task.restore_state(self.datasets, checkpoint.task_state)
            except CheckpointError as exception:
                raise CheckpointError(f"{path}: {exception}") from None
        for parameters in self.optimizer.param_groups:  # as the last step left it, should none follow
            parameters["lr"] = self.learning_rate(max(0, self.epoch * len(self.sampler) + self.step - 1))

    def fit(self, scalars: Scalars, deadline: float | None = None) -> None:
        """Run to the last epoch, or to the time `deadline`.

        Raises `InterruptedRun` after a signal, or when time is up, once all is saved.
        """
        self.scalars = scalars
        try:
            with StopSignal(deadline) as self.stop:
                self._after_epoch()  # a run that was stopped before or in what follows its last epoch
                while self._unfinished():
                    self._run_epoch()
                    if self.step == len(self.sampler):
                        self._finish_epoch()
                    self._save()
                    self._interrupt_if_asked()
                    self._after_epoch()
                    self._interrupt_if_asked()
        except InterruptedRun as exception:
            raise self._resumable(exception.number) from None
        log.info("trained %d epochs; the checkpoints are in %s", self.epoch, self.folder)

    def _run_epoch(self) -> None:
        """Continue from `self.step` to the epoch's end, or to the step after which to stop."""
        if not self.step:
            self._prepare_epoch()
        log.debug("epoch %d begins at step %d", self.epoch + 1, self.step)
        self.model.train()
        self.sampler.start(self.epoch, self.step)
        total, first = len(self.sampler), self.epoch * len(self.sampler)
        title = f"epoch {self.epoch + 1}/{self.config.training.epochs}"
        pending: list[Tensor] = []
        begin = time.perf_counter()
        with progress(None, title, self.group.rank, total=total, initial=self.step) as bar:
            for batch in self.stop.until_asked(self._inputs(), self.group.any):
                rate = self.learning_rate(first + self.step)
                pending.append(self._take_step(batch, first + self.step, rate))
                self.step += 1
                bar.update()
                if self.step == total or len(pending) == REPORT_EVERY:
                    loss = self._report(pending, first + self.step, rate)
                    bar.set_postfix(loss=f"{loss:.4g}", lr=f"{rate:.2g}")
        if pending:  # the run stops within the epoch
            self._report(pending, first + self.step, rate)
        fault = unusable(self.model.state_dict())  # no loss has seen what the last step did
        if fault is not None:
            self._give_up(self.step, fault)
        waited = self.loader.seconds_waited / (time.perf_counter() - begin)
        log.info("epoch %d: %.0f %% of the time spent waiting for data", self.epoch + 1, 100 * waited)

    def _inputs(self) -> Iterator[Any]:
        """Yield what `_take_step` takes in each of the epoch's further steps."""
        return iter(self.loader)

    def _prepare_epoch(self) -> None:
        """Let the task prepare its data with the network as it is before the epoch."""
        self.model.eval()
        with self.stop.at_once(), torch.inference_mode(), autocast(self.config, self.group.device):
            tools = tools_of(self.group, self.config.training.workers)
            self.task.before_epoch(self._network(), self.epoch, tools, self.datasets)

    def _finish_epoch(self) -> None:
        """Add the epoch to the history and count it; it is saved next."""
        row: dict[str, Any] = {"epoch": self.epoch + 1, "loss": self.loss_sum / self.step}
        self._complete(row)
        self.history.append(row)
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0

    def _report(self, pending: list[Tensor], step: int, rate: float) -> float:
        """Fetch the pending losses, check them, write them; return their mean and empty the list."""
        values = torch.stack(pending).cpu()  # (steps, 2): loss, gradient norm
        bad = ~values.isfinite().all(dim=1)
        if bad.any():
            self._give_up(self.step - len(pending) + int(bad.int().argmax()) + 1)
        self.loss_sum += float(values[:, 0].double().sum())
        pending.clear()
        loss, norm = values.mean(dim=0).tolist()
        self.scalars.add({"train/loss": loss, "train/gradient_norm": norm, "train/learning_rate": rate}, step)
        return loss

    def _give_up(self, step: int, fault: str = "loss or gradient is not finite") -> None:
        raise DataError(
            f"{fault} in epoch {self.epoch + 1}, step {step}; the checkpoints before it are intact: look at that "
            "batch's features, or lower training.base_lr"
        )

    def _interrupt_if_asked(self) -> None:
        """Raise `InterruptedRun` when any process was asked to stop and there is something left to do."""
        number = max(self.group.gather([self.stop.number]))
        if number and self._unfinished():
            raise InterruptedRun(number)

    def _resumable(self, number: int) -> InterruptedRun:
        """Return what ends the run. Before any step every process holds the same, and may save what none has."""
        path = self.folder / checkpoint_name(self.epoch, self.step)
        if not path.exists() and not self.step:
            save_checkpoint(path, self._checkpoint())
        saved = f"saved {path}; " if path.exists() else ""  # not if another process broke down within the epoch
        return InterruptedRun(
            number,
            f"{'time is up: ' if number == SIGALRM else ''}stopped after {self.epoch} epochs and {self.step} "
            f"steps; {saved}go on with --RUN={self.run} --RESUME --VERSION={self.config.version}",
        )

    def _save(self) -> None:
        """Write a checkpoint on rank 0, drop those no longer kept; every process waits for it."""
        failure = None
        if self.group.rank == 0:
            try:
                name = checkpoint_name(self.epoch, self.step)
                save_checkpoint(self.folder / name, self._checkpoint())
                self.written.add(name)
                if not self.keep_all:
                    prune(self.folder, best_epoch(self.history, self.task.headline), self.written)
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
            steps_per_epoch=len(self.sampler),
            processes=self.group.size,
            task_state=self.task.state(self.datasets) if self.step else {},
            versions=versions(),
            **{name: getattr(self, name) for name in self.PROGRESS},
        )
