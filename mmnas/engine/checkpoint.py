"""Checkpoints: plain types and tensors in one file, written atomically, read without running code.

Two forms are read: this project's, which is self-contained (model, optimiser, position, configuration,
genotype, vocabularies, history, versions), and the released models', which hold weights alone.
"""

import dataclasses
import os
import pickle
import platform
import re
import typing
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mmnas.config import Config
from mmnas.engine.checkpoint_values import check_types, plain_values, unusable
from mmnas.engine.stopping import explained
from mmnas.errors import CheckpointError, ConfigError
from mmnas.files import PathLike, replacing
from mmnas.genotype import Genotype
from mmnas.models.published import from_published
from mmnas.typed import shown
from mmnas.version import __version__

Network = TypeVar("Network", bound=nn.Module)
FORMAT = "mmnas checkpoint 1"
_VERSION = re.compile(r"\w[\w.+=@-]{0,99}")
_FILE = re.compile(r"epoch(\d+)(?:_step(\d+))?\.pkl")


@dataclass
class Checkpoint:
    """One moment of a run. Random streams need no state: they follow from seed, rank and step."""

    config: dict[str, Any]
    genotype: dict[str, Any]
    vocabularies: dict[str, list[str]]
    model: dict[str, Tensor]
    optimizer: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    """Whole epochs behind."""
    step: int = 0
    """Optimiser steps behind in the epoch that is under way."""
    steps_per_epoch: int = 0
    processes: int = 1
    loss_sum: float = 0.0
    """Sum of the losses of the epoch that is under way."""
    task_state: dict[str, Tensor] = field(default_factory=dict)
    """What the task prepared for the epoch that is under way, such as its negatives."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Per whole epoch: mean loss and, where val was scored, its figures; None while it is yet to be scored."""
    seen_splits: list[str] = field(default_factory=list)
    """The values of --SPLIT that the weights were trained on: this run's, and of what it was fine-tuned from."""
    versions: dict[str, str] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)
    """Of a search: the architecture parameters and their optimiser. `genotype` is then the search space."""


@dataclass
class PublishedWeights:
    """A released checkpoint: weights under their published names, and nothing else that is of use."""

    state: dict[str, Tensor]


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "mmnas": __version__,
        "torch": str(torch.__version__),  # a subclass of str, which weights_only refuses
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def save_checkpoint(path: PathLike, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; whatever goes wrong, an older file of that name and all others survive."""
    values = {
        "format": FORMAT,
        **{entry.name: getattr(checkpoint, entry.name) for entry in dataclasses.fields(checkpoint)},
    }
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save(values, file)
    except (OSError, RuntimeError) as exception:
        if isinstance(exception, RuntimeError) and explained(exception):  # a worker's death is told at any time
            raise
        reason = getattr(exception, "strerror", None) or "the disk may be full"
        raise CheckpointError(
            f"checkpoint {path} could not be saved ({reason}); earlier checkpoints are intact: "
            "free some space and go on with --RESUME"
        ) from None


def load_checkpoint(path: PathLike) -> Checkpoint | PublishedWeights:
    """Read either form onto the CPU. Raises `CheckpointError` when it is missing, damaged, or neither."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint not found: {path}")
    try:
        # Mapped, its tensors need no memory of their own; files of torch before 1.6 are no zip archives.
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_archive(path))
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} is no checkpoint of plain types, or damaged; nothing in it was run"
        ) from None
    except Exception as exception:  # torch raises many kinds for damaged bytes
        raise CheckpointError(f"{path} is damaged or truncated ({type(exception).__name__}); use another") from None
    try:
        if isinstance(values, dict) and dict.get(values, "format") == FORMAT:
            return _own(plain_values(values, path.stat().st_size))
        if isinstance(values, dict) and isinstance(dict.get(values, "state_dict"), dict):
            return _published(plain_values(dict.get(values, "state_dict"), path.stat().st_size))
    except CheckpointError as exception:
        raise CheckpointError(f"{path} {exception}: it is damaged or of another program") from None
    raise CheckpointError(f"{path} is neither a checkpoint of this project nor of the released models")


def _is_archive(path: Path) -> bool:
    """Whether torch reads the file as an archive; one that is packed tighter than torch does it is damaged."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
        with zipfile.ZipFile(file) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise zipfile.BadZipFile
    return True


def _own(values: Mapping[str, Any]) -> Checkpoint:
    hints = typing.get_type_hints(Checkpoint)
    if set(values) != {*hints, "format"}:
        different = sorted(map(str, set(values) ^ {*hints, "format"}))
        raise CheckpointError(f"lacks or has unknown entries, {shown(different)}")
    check_types(values, hints)
    return Checkpoint(**{name: values[name] for name in hints})


def _published(state: Mapping[Any, Any]) -> PublishedWeights:
    if not all(isinstance(name, str) for name in state):
        raise CheckpointError("has weights without a name")
    return PublishedWeights(dict(state))


def settings_of(path: PathLike, checkpoint: Checkpoint) -> tuple[Config, Genotype]:
    """Return the configuration and genotype that a checkpoint was trained with."""
    try:
        config, genotype = Config.from_dict(checkpoint.config), Genotype.from_dict(checkpoint.genotype)
    except ConfigError as exception:
        raise CheckpointError(f"{path}: {exception}") from None
    if not _VERSION.fullmatch(config.version):  # it becomes part of the names of files that are written
        raise CheckpointError(f"{path}: version {shown(config.version)} is no name of a run")
    return config, genotype


def network_with(build: Callable[[], Network], source: Checkpoint | PublishedWeights, path: PathLike) -> Network:
    """Build a network and copy a checkpoint's weights into it. Raises `CheckpointError` naming what does not fit.

    Shapes are compared on the meta device first, so that a file that claims absurd sizes takes no memory.
    """
    with torch.device("meta"):
        outline = build()
    _check_fit(_state_for(outline, source), _shapes(outline), path)
    network = build()
    network.load_state_dict(_state_for(network, source))
    return network


def load_weights(model: nn.Module, source: Checkpoint | PublishedWeights, path: PathLike) -> None:
    """Copy a checkpoint's weights into `model`. Raises `CheckpointError` naming what does not fit."""
    _check_fit(_state_for(model, source), _shapes(model), path)
    model.load_state_dict(_state_for(model, source))


def _state_for(model: nn.Module, source: Checkpoint | PublishedWeights) -> dict[str, Tensor]:
    if isinstance(source, Checkpoint):
        return source.model
    return from_published(source.state, getattr(model, "relation", None) is not None)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _check_fit(state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], path: PathLike) -> None:
    for name, shape in shapes.items():
        if name in state and isinstance(state[name], Tensor) and tuple(state[name].shape) != shape:
            raise CheckpointError(_misfit(name, tuple(state[name].shape), shape, path))
    missing = [name for name in shapes if not isinstance(state.get(name), Tensor)]
    foreign = [name for name in state if name not in shapes]
    if missing or foreign:
        examples = f"lacks {missing[0]}" if missing else f"has {shown(foreign[0])}"
        raise CheckpointError(
            f"{path} does not fit this network: it {examples} ({len(missing)} missing, {len(foreign)} foreign "
            "parameters); is it of another task, or another --GENO_PATH?"
        )
    fault = unusable(state)
    if fault is not None:
        raise CheckpointError(f"{path}: {fault}; use another checkpoint")


def _misfit(name: str, found: tuple[int, ...], wanted: tuple[int, ...], path: PathLike) -> str:
    if name.endswith("embedding.weight") and found[1:] == wanted[1:]:
        return (
            f"{path} was trained with {found[0]} words, the data gives {wanted[0]}: "
            "put the texts of all splits that it was trained with under --DATA_PATH"
        )
    if name.startswith("head.classifier") and found[1:] == wanted[1:]:
        return (
            f"{path} was trained with {found[0]} answers, the data gives {wanted[0]}: "
            "put the annotation files that it was trained with under --DATA_PATH"
        )
    if name == "region_stem.linear.weight" and found[:1] == wanted[:1]:
        return (
            f"{path} was trained with region features {found[1]} wide, these are {wanted[1]}: "
            "name their kind by --FEAT of train_vgd.py, or model.feature_size by --CFG"
        )
    return f"{path} does not fit: {name} is {found}, the network's {wanted}; is it of another --MODEL size?"


def checkpoint_name(epoch: int, step: int) -> str:
    """Return the file name of a moment: `epoch3.pkl`, or `epoch3_step120.pkl` within the fourth."""
    return f"epoch{epoch}_step{step}.pkl" if step else f"epoch{epoch}.pkl"


def checkpoints_in(folder: PathLike) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    return sorted((path for path in Path(folder).glob("epoch*.pkl") if _FILE.fullmatch(path.name)), key=moment_of)


def moment_of(path: Path) -> tuple[int, int]:
    """Return the whole epochs and further steps that the name of a run's checkpoint tells."""
    match = _FILE.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def best_epoch(history: list[dict[str, Any]], headline: str) -> int | None:
    """Return the number of whole epochs after which `headline` was highest, the first such; or None."""
    rows = [(entry["metrics"] or {}, entry["epoch"]) for entry in history]
    scored = [(figures[headline], -epoch) for figures, epoch in rows if headline in figures]
    return -max(scored)[1] if scored else None


def prune(folder: PathLike, best: int | None) -> None:
    """Remove all checkpoints of a run but the newest two and the best."""
    for path in checkpoints_in(folder)[:-2]:
        if path.name != checkpoint_name(best or -1, 0):
            os.remove(path)
