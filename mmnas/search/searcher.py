"""Searching a task's architecture (paper section 3.4): weights and architecture parameters in turn.

Weights learn from one part of the training split, by one path per step; architecture parameters from the other
part, by binary gates. All random choices follow from (seed, step) and are the same in every process.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import Struct
from msgspec.structs import replace
from torch import Tensor

from mmnas.batch import Batch
from mmnas.engine.checkpoint import Checkpoint
from mmnas.engine.checkpoint_values import unusable
from mmnas.engine.distributed import Group
from mmnas.engine.loop import EpochLoop
from mmnas.engine.optimizer import restore_optimizer
from mmnas.engine.steps import add_gradients, autocast, move_weights, seed_step
from mmnas.errors import CheckpointError, MMNasError
from mmnas.genotype import Genotype, write_genotypes
from mmnas.models.cost import Cost
from mmnas.models.network import MMNasNet
from mmnas.schema import convert
from mmnas.search.architecture import Architecture
from mmnas.search.choice import HeldOut, scores_of
from mmnas.search.epochs import Row, chosen, history_of, log_epoch, row_of, standing
from mmnas.search.history import Scored, check_history, write_history
from mmnas.search.limits import limits_of
from mmnas.search.supernet import Supernet, space_of
from mmnas.tasks.base import Task

log = logging.getLogger(__name__)

# What a random stream is for; seeded by the run's seed, this and the step.
WEIGHT_PATH, GATES, GATED_STEP, FAIR_PATH, CHOICE = 1, 2, 3, 4, 5
HELD_OUT_BATCHES = 20  # that score a path
EXCESS_WEIGHT = 1.0  # of a limit's excess, relative to the loss


class _SearchState(Struct):
    """What a checkpoint of a search holds besides the weights."""

    alphas: dict[str, Tensor]
    optimizer: dict[str, Any]


class Searcher(EpochLoop):
    """Finds the genotype of a task within a search space, and writes it after every epoch."""

    run = "search"

    def __init__(
        self, task: Task, model: MMNasNet, space: Genotype, group: Group, folder: Path, keep_all: bool
    ) -> None:
        self.supernet = Supernet(model, space)
        super().__init__(task, model, space, group, folder, keep_all)
        search = self.config.search
        self.limits = limits_of(self.config, space)
        start = search.alpha_init if search.strategy == "paper" else "uniform"
        self.architecture = Architecture(space, start, self.config.training.seed)
        self.alpha_optimizer = torch.optim.Adam(
            self.architecture.parameters(), lr=search.alpha_lr, betas=search.alpha_betas
        )
        self.alpha_loader, self.alpha_sampler = self._load(self.datasets[1])
        log.info("architecture parameters learn from %d further samples", self.alpha_sampler.size)

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Continue where `checkpoint` stopped; its weights are loaded already."""
        super().restore(checkpoint, path)
        try:
            held = convert(checkpoint.search, _SearchState, "search", CheckpointError)
            self._check(held.alphas, checkpoint.history)
        except (ValueError, KeyError, TypeError) as exception:
            raise CheckpointError(f"{path} does not fit its search ({exception}); use another checkpoint") from None
        self.architecture.load_state_dict(held.alphas)
        restore_optimizer(self.alpha_optimizer, held.optimizer, path)

    def _check(self, alphas: dict[str, Tensor], history: list[dict[str, Any]]) -> None:
        """Raise an error unless space, alphas and rows of a history are those of this search."""
        own = {name: alpha.shape for name, alpha in self.architecture.state_dict().items()}
        same = own == {name: alpha.shape for name, alpha in alphas.items()}
        if not same or unusable(alphas) or self.genotype != space_of(self.config):
            raise CheckpointError("it has another search space, or alphas that are not numbers")
        if history:
            check_history(history_of(history, self.genotype))
        for index, row in enumerate(history):
            steps, probabilities = row["architecture_steps"], list(map(np.array, row["probabilities"]))
            noted = self._noted(history[:index], probabilities, steps)
            begun = self._architecture_steps(row["epoch"] * len(self.sampler)) > 0
            if begun != (steps > 0) or "genotype" not in row or {**noted, **row} != {**row, **noted}:
                raise CheckpointError(f"what it notes of epoch {row['epoch']} contradicts itself")

    def _checkpoint(self) -> Checkpoint:
        checkpoint = super()._checkpoint()
        checkpoint.search = {
            "alphas": self.architecture.state_dict(),
            "optimizer": self.alpha_optimizer.state_dict(),
        }
        return checkpoint

    def _network(self) -> MMNasNet:
        return self.supernet.network(self.limits.most_probable(self.architecture.probabilities())[0])

    def _inputs(self) -> Iterator[tuple[Batch, Batch | None]]:
        """Yield the batch of every step, with that of the architecture step when one is due."""
        first = self.epoch * len(self.sampler) + self.step
        held_out = self._read_on(self._architecture_steps(first))
        for number, batch in enumerate(super()._inputs(), start=first):
            due = self._architecture_steps(number + 1) > self._architecture_steps(number)
            yield batch, next(held_out) if due else None

    def _take_step(self, batches: tuple[Batch, Batch | None], number: int, rate: float) -> Tensor:
        """Move the weights of one path; then, when it is due, the architecture parameters."""
        batch, held_out = batches
        seed_step(self.config.training.seed, self.group.rank, number)
        loss = add_gradients(self.task, self.supernet.network(self._path(number)), batch, self.group.device)
        self.group.average([weight.grad for weight in self.model.parameters() if weight.grad is not None])
        norm = move_weights(self.model, self.optimizer, self.config.training.clip_norm, rate)
        if held_out is not None:
            self._architecture_step(held_out, number)
        return torch.stack([loss, norm])

    def _path(self, number: int) -> list[int]:
        """Return the path of a weight step."""
        if self.config.search.sampling == "fair" and not self._architecture_steps(number + 1):
            return self.architecture.draw_fairly(number, self.config.training.seed, FAIR_PATH)
        return self.architecture.draw(self._rng(WEIGHT_PATH, number))

    def _rng(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng((self.config.training.seed, purpose, number))

    def _architecture_steps(self, weight_steps: int) -> int:
        """Return how many architecture steps belong to so many weight steps of the whole search."""
        search = self.config.search
        if search.strategy != "paper":
            return 0
        return max(0, weight_steps - search.alpha_start * len(self.sampler)) // search.alpha_every

    def _architecture_step(self, batch: Batch, number: int) -> None:
        """Move the alphas by the gradients of the gates on a batch of the held-out part."""
        seed_step(self.config.training.seed, self.group.rank, number, GATED_STEP)
        mode = self.config.search.alpha_mode
        gates = self.architecture.draw_gates(self._rng(GATES, number), mode, self.group.device)
        with autocast(self.config, self.group.device):
            loss = self.task.loss(self.supernet.gated(gates), self.task.with_totals(batch))["total"]
        gradient = torch.cat([*torch.autograd.grad(loss, [gate.values for gate in gates]), loss.detach()[None]])
        self.group.average([gradient])
        gradient = gradient.cpu()  # one copy from the device for all blocks
        if not gradient.isfinite().all():
            self._give_up(self.step + 1)
        gradient, loss = gradient.split([len(gradient) - 1, 1])
        excess = np.concatenate(self.limits.excess(self.architecture.probabilities()))
        gradient = gradient + EXCESS_WEIGHT * loss * torch.from_numpy(excess).float()
        self.architecture.set_gradients(gates, gradient.split([len(gate.values) for gate in gates]))
        self.architecture.step(self.alpha_optimizer, gates, mode)

    def _read_on(self, number: int) -> Iterator[Batch]:
        """Yield the batches of the held-out part from batch `number` on, epoch after epoch without end.

        Not beyond an epoch of the weights: workers read ahead, and the task prepares the data anew.
        """
        epoch, first = divmod(number, len(self.alpha_sampler))
        while True:
            self.alpha_sampler.start(epoch, first)
            yield from self.alpha_loader
            epoch, first = epoch + 1, 0

    def _unfinished(self) -> bool:
        search = self.config.search
        stands = search.patience and standing(self.history) >= search.patience and self.epoch >= search.min_epochs
        return super()._unfinished() and not stands

    def _complete(self, row: dict[str, Any]) -> None:
        """Add and log what the epoch has found: genotype, probabilities, how far they have changed."""
        self._require_equal_alphas()
        steps = self._architecture_steps((self.epoch + 1) * len(self.sampler))
        row |= self._noted(self.history, self.architecture.probabilities(), steps)
        log_epoch([*self.history, row], self.genotype)

    def _noted(self, history: Sequence[Row], probabilities: Sequence[np.ndarray], steps: int) -> dict[str, Any]:
        """Return what the row of the epoch after `history` notes; what the loss alone tells is added to it."""
        [best], search = self.limits.most_probable(probabilities), self.config.search
        cost = self.limits.cost(best) if search.strategy == "paper" else Cost()  # a control has found nothing yet
        return row_of(history, self.genotype.take(best), cost, probabilities, steps)

    def _require_equal_alphas(self) -> None:
        """Raise `MMNasError` unless every process holds the same alphas, which are about to be written."""
        held = self.group.gather([[alpha.tolist() for alpha in self.architecture.alphas]])
        if any(alphas != held[0] for alphas in held):
            raise MMNasError("processes hold different architecture parameters: the last checkpoints are intact")

    def held_out(self) -> HeldOut:
        """Return the data on which paths are compared, as the epoch has prepared it."""
        self.alpha_sampler.start(0)
        return HeldOut(self.task, self.supernet, self.group, islice(self.alpha_loader, HELD_OUT_BATCHES))

    def _score(self) -> list[Scored]:
        """Score paths for the final choice; return them, the best first."""
        search, rng = self.config.search, self._rng(CHOICE, self.epoch)
        if search.strategy == "paper" and not search.choose:
            return []
        self._prepare_epoch()  # a run that is resumed after its last epoch has prepared nothing
        with self.stop.at_once():
            probabilities, score = self.architecture.probabilities(), self.held_out().loss
            losses = scores_of(search, self.limits, probabilities, score, rng)
        ranked = sorted((loss, path, self.limits.cost(path)) for path, loss in losses.items())
        return [Scored(self.genotype.take(p), loss, c.parameters, c.multiply_adds) for loss, p, c in ranked]

    def _after_epoch(self) -> None:
        """Write the genotypes and the probabilities of all epochs so far, and in the end what is chosen."""
        if not self.history:
            return
        found = {row["epoch"]: Genotype.from_dict(row["genotype"]) for row in self.history}
        scored = []
        if not self._unfinished():
            scored = self._score()
            found |= chosen(self.history, scored, self.config.search)
        if self.group.rank == 0:
            if scored or self.config.search.strategy == "paper":  # a control has found nothing before its end
                write_genotypes(self.config.files.genotypes, found)
            history = replace(history_of(self.history, self.genotype), scored=scored)
            write_history(self.config.files.history, history)
