"""Checkpoints: plain types and tensors in one file, written atomically, read without running code.

Three forms are read: this project's, which is self-contained (model, optimizer, position, configuration,
genotype, vocabularies, history, versions), the folder that `mmnas export` writes, which holds the same but for the
state of training, and the released models', which hold weights alone.
"""

import functools
import os
import pickle
import platform
import re
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from msgspec import Struct, structs
from torch import Tensor

from mmnas.config import VERSION, Config
from mmnas.engine.checkpoint_values import plain_values
from mmnas.engine.exported import WEIGHTS, read_export
from mmnas.engine.stopping import explained
from mmnas.errors import CheckpointError, ConfigError
from mmnas.files import PathLike, opened_again, replacing, sha256_of
from mmnas.genotype import Genotype
from mmnas.schema import Count, Finite, Natural, convert, shown
from mmnas.version import __version__

FORMAT = "mmnas checkpoint 1"
_FILE = re.compile(r"epoch(\d+)(?:_step(\d+))?\.pkl")


class Checkpoint(Struct, forbid_unknown_fields=True):
    """One moment of a run. Random streams need no state: they follow from seed, rank and step."""

    config: dict[str, Any]
    genotype: dict[str, Any]
    vocabularies: dict[str, list[str]]
    model: dict[str, Tensor]
    optimizer: dict[str, Any] = {}
    epoch: Natural = 0
    """Number of completed epochs."""
    step: Natural = 0
    """Optimizer steps taken in the current epoch."""
    steps_per_epoch: Natural = 0
    processes: Count = 1
    loss_sum: Finite = 0.0
    """Sum of the losses of the current epoch."""
    task_state: dict[str, Tensor] = {}
    """What the task prepared for the current epoch, such as its negatives."""
    history: list[dict[str, Any]] = []
    """Per completed epoch: mean loss and, where val was scored, its figures; None while it is yet to be scored."""
    seen_splits: list[str] = []
    """The values of --SPLIT that the weights were trained on: this run's, and of what it was fine-tuned from."""
    data: dict[str, str] = {}
    """Fingerprints of what the weights were trained on and scored with."""
    versions: dict[str, str] = {}
    search: dict[str, Any] = {}
    """Of a search: the architecture parameters and their optimizer. `genotype` is then the search space."""


class HistoryRow(Struct):
    """What every row of a history holds, whatever else there is."""

    epoch: Natural
    loss: Finite
    metrics: dict[str, float] | None


@dataclass
class PublishedWeights:
    """A released checkpoint: weights under their published names, and nothing else of use."""

    state: dict[str, Tensor]


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint and the open file that its tensors are mapped from.

    Another process opens the same file instead of receiving the values, so nothing is copied or looked up by name.
    """

    path: Path
    file: BinaryIO
    content: Checkpoint | PublishedWeights

    @property
    def own(self) -> Checkpoint | None:
        """What this project wrote; None for released weights."""
        return self.content if isinstance(self.content, Checkpoint) else None

    @functools.cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file's bytes, see `sha256_of`."""
        return sha256_of(self.file)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.path, DupFd(self.file.fileno()))


def _received(path: Path, descriptor: Any) -> CheckpointFile:
    with os.fdopen(descriptor.detach(), "rb") as shared:
        file = opened_again(shared, _content(path), CheckpointError)
    return CheckpointFile(path, file, _read(path, file))


def _content(path: Path) -> Path:
    return path / WEIGHTS if path.is_dir() else path


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
    values = {"format": FORMAT, **structs.asdict(checkpoint)}
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save(values, file)
    except (OSError, RuntimeError) as exception:
        for each in (exception, exception.__context__):  # a worker's death interrupts at any time
            if isinstance(each, RuntimeError) and explained(each):
                raise each from None
        disk = isinstance(exception, OSError) or re.search("inline_container|PytorchStreamWriter", str(exception))
        text = "the disk may be full" if disk else str(exception).partition("\n")[0]
        raise CheckpointError(
            f"checkpoint {path} could not be saved ({getattr(exception, 'strerror', None) or text}); earlier "
            f"checkpoints are intact: {'free some space and ' if disk else ''}go on with --RESUME"
        ) from None


def load_checkpoint(path: PathLike) -> Checkpoint | PublishedWeights:
    """Read any form onto the CPU. Raises `CheckpointError` when it is missing, damaged, or neither."""
    opened = open_checkpoint(path)
    opened.file.close()  # what is mapped stays
    return opened.content


def open_checkpoint(path: PathLike) -> CheckpointFile:
    """Open a checkpoint of any form and read it, see `load_checkpoint`."""
    path = Path(path)
    if not _content(path).is_file():
        raise CheckpointError(f"checkpoint not found: {path}")
    file = open(_content(path), "rb")  # noqa: SIM115, it belongs to what is returned
    return CheckpointFile(path, file, _read(path, file))


def _read(path: Path, file: BinaryIO) -> Checkpoint | PublishedWeights:
    values, size = (read_export if path.is_dir() else _loaded)(path, file), os.fstat(file.fileno()).st_size
    try:
        if isinstance(values, dict) and dict.get(values, "format") == FORMAT:
            return _own(plain_values(values, size))
        if isinstance(values, dict) and isinstance(dict.get(values, "state_dict"), dict):
            state = plain_values(dict.get(values, "state_dict"), size)
            return PublishedWeights(convert(state, dict[str, Tensor], "state_dict", CheckpointError))
    except CheckpointError as exception:
        raise CheckpointError(f"{path}: {exception}; it is damaged or from another program") from None
    raise CheckpointError(f"{path} is neither a checkpoint of this project nor of the released models")


def _loaded(path: Path, file: BinaryIO) -> Any:
    try:
        archive = _is_archive(file)
        file.seek(0)
        # Mapped, its tensors need no memory of their own; files of torch before 1.6 are no zip archives.
        source = f"/dev/fd/{file.fileno()}" if archive else file
        return torch.load(source, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as exception:
        named = re.search(r"GLOBAL (\S+)", str(exception))
        fault = f"holds {named[1]}, no plain value" if named else "is not a checkpoint of this project, or damaged"
        raise CheckpointError(f"{path} {fault} (no code was run)") from None
    except Exception as exception:  # torch raises many kinds for damaged bytes
        raise CheckpointError(f"{path} is damaged or truncated ({type(exception).__name__}); use another") from None


def _is_archive(file: BinaryIO) -> bool:
    """Whether torch reads the file as an archive; one that is packed tighter than torch does it is damaged."""
    if file.read(4) != b"PK\x03\x04":
        return False
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise zipfile.BadZipFile
    return True


def _own(values: dict[str, Any]) -> Checkpoint:
    del values["format"]
    checkpoint = convert(values, Checkpoint, error=CheckpointError)
    rows = convert(checkpoint.history, list[HistoryRow], "history", CheckpointError)
    if len(rows) != checkpoint.epoch or any(row.epoch != number for number, row in enumerate(rows, start=1)):
        raise CheckpointError(f"history must have a row for each of {checkpoint.epoch} epochs")
    if checkpoint.step and checkpoint.step >= checkpoint.steps_per_epoch:
        raise CheckpointError(f"step {checkpoint.step} is not within {checkpoint.steps_per_epoch} steps per epoch")
    return checkpoint


def settings_of(path: PathLike, checkpoint: Checkpoint) -> tuple[Config, Genotype]:
    """Return the configuration and genotype that a checkpoint was trained with."""
    try:
        config, genotype = Config.from_dict(checkpoint.config), Genotype.from_dict(checkpoint.genotype)
    except ConfigError as exception:
        raise CheckpointError(f"{path}: {exception}") from None
    if not VERSION.fullmatch(config.version):
        raise CheckpointError(f"{path}: version {shown(config.version)} cannot be part of a file name")
    return config, genotype


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


def prune(folder: PathLike, best: int | None, written: Collection[str]) -> None:
    """Remove those checkpoints of a run that it has `written`, but for the newest two and the best."""
    for path in [path for path in checkpoints_in(folder) if path.name in written][:-2]:
        if path.name != checkpoint_name(best or -1, 0):
            os.remove(path)
