"""From a file to a trained network: checkpoints, exported models, and released weights, which lack their words."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import Tensor

from mmnas.config import Config, shipped_sections
from mmnas.engine.checkpoint import Checkpoint, load_checkpoint, settings_of
from mmnas.engine.weights import network_with
from mmnas.errors import CheckpointError
from mmnas.files import PathLike
from mmnas.genotype import Genotype
from mmnas.models.cpu import use_cpu_kernels
from mmnas.models.network import MMNasNet
from mmnas.models.published import from_published
from mmnas.tasks import task_named
from mmnas.tasks.base import Task


def complete(
    path: Path, vocabulary_from: PathLike | None = None, task: str | None = None, flags: Sequence[str] = ()
) -> Checkpoint:
    """Load a trained network with its word lists; those of released weights are built from the data given.

    `task` and `flags`, those of its script such as `--GENO_PATH=mcan`, say what released weights do not tell.
    Raises `CheckpointError` where the words are missing, and for a search.
    """
    found = load_checkpoint(path)
    if isinstance(found, Checkpoint):
        if found.search:
            raise CheckpointError(f"{path} is of a search, which trains no network of its own: train its genotype")
        if vocabulary_from or task or flags:
            raise CheckpointError(f"{path} holds its own words and settings: leave out those for released weights")
        return found
    if vocabulary_from is None:
        raise CheckpointError(
            f"{path} holds released weights without a vocabulary: name the data that they were trained on by "
            "--vocabulary-from of `mmnas predict`, "
            "--vocabulary-from of `mmnas export`, or vocabulary_from of `mmnas.load`"
        )
    from mmnas.run.cli import parse  # slow to import
    from mmnas.run.plan import UNKNOWN, make_plan

    kind = task_named(task or _task_of(from_published(found.state)))
    given = ["--RUN=val", f"--CKPT_PATH={path}", "--VERSION=released", f"--DATA_PATH={vocabulary_from}"]
    plan = make_plan(kind, parse(kind, [*given, *_size_of(found.state, kind.name), *flags]))
    return Checkpoint(
        config=replace(plan.config, split=UNKNOWN).to_dict(),
        genotype=plan.genotype.to_dict(),
        vocabularies=kind(plan.config).build_vocabularies(),
        model=from_published(found.state, plan.genotype.uses_relation),
        seen_splits=[UNKNOWN],
    )


def network_of(path: Path, checkpoint: Checkpoint, device: str = "cpu") -> tuple[MMNasNet, Task, Genotype, Config]:
    """Build the network of a checkpoint that was read from `path`, and what belongs to it.

    Raises `CheckpointError` when anything does not fit.
    """
    config, genotype = settings_of(path, checkpoint)
    task = task_named(config.task)(config)
    task.use_vocabularies(checkpoint.vocabularies)
    task.weights = str(path)
    build = partial(task.build_model, genotype, pretrained_words=False)
    model = network_with(build, checkpoint, path, task.explain_misfit)
    if torch.device(device).type == "cpu":
        use_cpu_kernels(model)
    return model.eval().to(device), task, genotype, config


def _task_of(state: Mapping[str, Tensor]) -> str:
    """Return the task whose head the weights have: one output is a match, many are answers."""
    if "head.score.weight" in state:
        return "vgd"
    return "itm" if len(state.get("head.classifier.bias", ())) == 1 else "vqa"


def _size_of(state: Mapping[str, Tensor], task: str) -> list[str]:
    """Return the flag of the shipped size that is as wide as the weights, if there is one."""
    width = len(from_published(state).get("region_stem.linear.bias", ()))
    sizes = shipped_sections(task).items()
    return [f"--MODEL={size}" for size, part in sizes if part["model"]["hidden_size"] == width]
