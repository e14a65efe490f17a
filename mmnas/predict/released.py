"""Released weights completed to a checkpoint of this project, by the words of the data they were trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from torch import Tensor

from mmnas.config import PathsConfig, load_config, shipped_sections
from mmnas.engine.checkpoint import Checkpoint, load_checkpoint
from mmnas.errors import CheckpointError, ConfigError
from mmnas.files import PathLike
from mmnas.genotype import read_genotype
from mmnas.models.published import from_published
from mmnas.run.flags import default_genotype
from mmnas.run.plan import UNKNOWN, default_size
from mmnas.tasks import task_named


def complete(
    path: Path,
    vocabulary_from: PathLike | None = None,
    *,
    task: str | None = None,
    size: str | None = None,
    geno_path: str | None = None,
    file: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Load a trained network with its word lists; those of released weights are built from the data given.

    Everything from `task` on concerns released weights: what their file does not tell. `file` and `overrides` are
    settings as of `load_config`. Raises `CheckpointError` where the words are missing, and for a search.
    """
    found = load_checkpoint(path)
    if isinstance(found, Checkpoint):
        if found.search:
            raise CheckpointError(f"{path} is of a search, which trains no network of its own: train its genotype")
        return found
    if vocabulary_from is None:
        raise CheckpointError(
            f"{path} holds released weights without a vocabulary: name the data that they were trained on by "
            "--vocabulary-from of `mmnas export`, or vocabulary_from of `mmnas.load`"
        )
    state = from_published(found.state)
    kind = task_named(task or _task_of(state))
    settings = {"paths.data": str(vocabulary_from), **(overrides or {})}
    size = size or _size_of(state, kind.name)
    config = load_config(kind.name, size, split=UNKNOWN, version="released", overrides=settings, file=file)
    if config.data.dataset and "data.dataset" not in kind.choices:
        raise ConfigError(f"{kind.name} has no --dataset={config.data.dataset}: leave it out, or name its --task")
    made, genotype = kind(kind.settle(config)), read_genotype(geno_path or default_genotype(kind))
    return Checkpoint(
        config=replace(made.config, paths=PathsConfig()).to_dict(),
        genotype=genotype.to_dict(),
        vocabularies=made.build_vocabularies(),
        model=from_published(found.state, genotype.uses_relation),
        seen_splits=[UNKNOWN],
    )


def _task_of(state: Mapping[str, Tensor]) -> str:
    """Return the task whose head the weights have: one output is a match, many are answers."""
    if "head.score.weight" in state:
        return "vgd"
    return "itm" if len(state.get("head.classifier.bias", ())) == 1 else "vqa"


def _size_of(state: Mapping[str, Tensor], task: str) -> str:
    """Return the shipped size with the weights' width, or the one that is trained by default."""
    width, small = len(state.get("region_stem.linear.bias", ())), default_size("val")
    sizes = shipped_sections(task).items()
    return next((size for size, part in sizes if part["model"]["hidden_size"] == width), small)
