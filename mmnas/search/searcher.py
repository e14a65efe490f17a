"""Searching a task's architecture (paper section 3.4): weights and architecture parameters in turn.

Weights learn from one part of the training split, by one path per step; architecture parameters from the other
part, by binary gates. All random choices follow from (seed, step) and are the same in every process.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import Struct
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
from mmnas.models.network import MMNasNet
from mmnas.schema import convert
from mmnas.search.architecture import Architecture
from mmnas.search.history import SearchEpoch, SearchHistory, check_history, entropy, margin, write_history
from mmnas.search.supernet import Supernet, space_of
from mmnas.tasks.base import Task

log = logging.getLogger(__name__)

# What a random stream is for; seeded by the run's seed, this and the step.
WEIGHT_PATH, GATES, GATED_STEP = 1, 2, 3


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
        self.architecture = Architecture(space, search.alpha_init, self.config.training.seed)
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
            check_history(search_history(history, self.genotype))
        for row in history:
            best = self.genotype.take([int(np.argmax(p)) for p in row["probabilities"]])
            if Genotype.from_dict(row["genotype"]) != best:
                raise CheckpointError(f"the genotype of epoch {row['epoch']} is not the most probable one")

    def _checkpoint(self) -> Checkpoint:
        checkpoint = super()._checkpoint()
        checkpoint.search = {
            "alphas": self.architecture.state_dict(),
            "optimizer": self.alpha_optimizer.state_dict(),
        }
        return checkpoint

    def _network(self) -> MMNasNet:
        return self.supernet.network(self.architecture.best_path())

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
        path = self.architecture.draw(self._rng(WEIGHT_PATH, number))
        loss = add_gradients(self.task, self.supernet.network(path), batch, self.group.device)
        self.group.average([weight.grad for weight in self.model.parameters() if weight.grad is not None])
        norm = move_weights(self.model, self.optimizer, self.config.training.clip_norm, rate)
        if held_out is not None:
            self._architecture_step(held_out, number)
        return torch.stack([loss, norm])

    def _rng(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng((self.config.training.seed, purpose, number))

    def _architecture_steps(self, weight_steps: int) -> int:
        """Return how many architecture steps belong to so many weight steps of the whole search."""
        search = self.config.search
        return max(0, weight_steps - search.alpha_start * len(self.sampler)) // search.alpha_every

    def _architecture_step(self, batch: Batch, number: int) -> None:
        """Move the alphas by the gradients of the gates on a batch of the held-out part."""
        seed_step(self.config.training.seed, self.group.rank, number, GATED_STEP)
        mode = self.config.search.alpha_mode
        gates = self.architecture.draw_gates(self._rng(GATES, number), mode, self.group.device)
        with autocast(self.config, self.group.device):
            loss = self.task.loss(self.supernet.gated(gates), self.task.with_totals(batch))["total"]
        gradient = torch.cat(torch.autograd.grad(loss, [gate.values for gate in gates]))
        self.group.average([gradient])
        gradient = gradient.cpu()  # one copy from the device for all blocks
        if not gradient.isfinite().all():
            self._give_up(self.step + 1)
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
        patience = self.config.search.patience
        return super()._unfinished() and not (patience and _standing(self.history) >= patience)

    def _complete(self, row: dict[str, Any]) -> None:
        """Add and log what the epoch has found: genotype, probabilities, how far they have changed."""
        self._require_equal_alphas()
        genotype = self.architecture.genotype()
        start: dict[str, Any] = {"genotype": genotype.to_dict(), "unchanged_epochs": 0}
        before = self.history[-1] if self.history else start
        changed = _differences(genotype, Genotype.from_dict(before["genotype"]))
        row |= {
            "metrics": {},
            "architecture_steps": self._architecture_steps((self.epoch + 1) * len(self.sampler)),
            "changed": changed,
            "unchanged_epochs": 1 if changed else before["unchanged_epochs"] + 1,
            "genotype": genotype.to_dict(),
            "probabilities": [p.tolist() for p in self.architecture.probabilities()],
        }
        log.info(
            "epoch %d: loss %.4f; %d blocks changed, the genotype has stood for %d epochs; %d architecture steps",
            row["epoch"], row["loss"], row["changed"], row["unchanged_epochs"], row["architecture_steps"],
        )  # fmt: skip
        history = search_history([row], self.genotype)
        for stream, rows in history.epochs[0].probabilities.items():
            names = [names[0] for names in row["genotype"][stream]]
            blocks = (f"{name} {entropy(p):.2f}/{margin(p):.2f}" for name, p in zip(names, rows, strict=True))
            log.info("  %s (entropy/margin): %s", stream, ", ".join(blocks))

    def _require_equal_alphas(self) -> None:
        """Raise `MMNasError` unless every process holds the same alphas, which are about to be written."""
        held = self.group.gather([[alpha.tolist() for alpha in self.architecture.alphas]])
        if any(alphas != held[0] for alphas in held):
            raise MMNasError("processes hold different architecture parameters: the last checkpoints are intact")

    def _after_epoch(self) -> None:
        """Write the genotypes and the probabilities of all epochs so far."""
        if self.history and self.group.rank == 0:
            found = {row["epoch"]: Genotype.from_dict(row["genotype"]) for row in self.history}
            write_genotypes(self.config.files.genotypes, found)
            write_history(self.config.files.history, search_history(self.history, self.genotype))


def search_history(rows: Sequence[Mapping[str, Any]], space: Genotype) -> SearchHistory:
    """Return the epochs that a search's checkpoint has noted, in the form of the file that is drawn from."""
    cut = len(space.encoder)
    epochs = [{name: row[name] for name in SearchEpoch.__struct_fields__} for row in rows]
    for epoch in epochs:
        epoch["probabilities"] = {"enc": epoch["probabilities"][:cut], "dec": epoch["probabilities"][cut:]}
    candidates = {"enc": space.encoder[0], "dec": space.decoder[0]}
    return convert({"candidates": candidates, "epochs": epochs}, SearchHistory, "history", CheckpointError)


def _differences(one: Genotype, other: Genotype) -> int:
    rows = zip((*one.encoder, *one.decoder), (*other.encoder, *other.decoder), strict=True)
    return sum(row != before for row, before in rows)


def _standing(history: Sequence[Mapping[str, Any]]) -> int:
    """Return for how many epochs with architecture steps the genotype has not changed, up to the last."""
    steps = [0, *(row["architecture_steps"] for row in history)]
    pairs = zip(history, steps[:-1], strict=True)
    ends = [row["changed"] > 0 or row["architecture_steps"] == before for row, before in pairs]
    return [*reversed(ends), True].index(True)
