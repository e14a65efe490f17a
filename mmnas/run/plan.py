"""What a command line asks for, settled before anything heavy starts.

A run's settings come from the YAML and the flags, or from a checkpoint. Evaluation and resuming take
model, genotype and vocabularies from the checkpoint; a flag that says otherwise is an error.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmnas.config import Config, PathsConfig
from mmnas.configs import load_config, read_overrides
from mmnas.engine.checkpoint import (
    Checkpoint,
    PublishedWeights,
    checkpoints_in,
    load_checkpoint,
    moment_of,
    settings_of,
)
from mmnas.errors import CheckpointError, ConfigError
from mmnas.genotype import Genotype, read_genotype
from mmnas.paths import RunPaths
from mmnas.search.supernet import space_of
from mmnas.tasks.base import Task

# The values of --RUN that start from flags, learn, and may be resumed.
LEARNING = ("train", "search")
# What may differ from the checkpoint without changing what it computes.
FREE_KEYS = ("paths.", "data.protocol", "training.workers", "training.eval_batch_size", "training.compile")


@dataclass(frozen=True)
class Request:
    """The flags as given; None stands for a flag that was left out."""

    run: str
    size: str | None = None
    split: str | None = None
    version: str | None = None
    geno_path: str | None = None
    geno_epoch: int | None = None
    checkpoint: str | None = None
    resume: bool = False
    keep_all: bool = False
    devices: str | None = None
    file: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Configuration keys that flags set, such as `training.seed`."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """The flag that set a key, for messages."""
    default_version: str = ""
    """The name of a new run that was given none."""


@dataclass(frozen=True)
class Plan:
    """Everything a run needs to know."""

    run: str
    config: Config
    genotype: Genotype
    checkpoint: Checkpoint | PublishedWeights | None = None
    checkpoint_path: Path | None = None
    resume: bool = False
    keep_all: bool = False

    @property
    def folder(self) -> Path:
        """Where the run's checkpoints lie."""
        return self.config.files.checkpoints


def default_size(run: str) -> str:
    """Return the size of a network that --MODEL says nothing of."""
    return "search" if run == "search" else "small"


def make_plan(task: type[Task], request: Request) -> Plan:
    """Settle a request. Raises `ConfigError` or `CheckpointError`, before anything is written."""
    _check_flags(request)
    path = _checkpoint_path(request)
    source = None if path is None else load_checkpoint(path)
    if path is not None and isinstance(source, Checkpoint):
        config, genotype = _from_checkpoint(task, request, source, path)
    else:
        if source is not None and request.resume:
            raise CheckpointError(
                f"{path} holds released weights, nothing to resume: leave out --RESUME to fine-tune"
            )
        config, genotype = _from_flags(task, request, path)
    plan = Plan(request.run, config, genotype, source, path, request.resume, request.keep_all)
    check_folder(plan)
    return plan


def check_folder(plan: Plan) -> None:
    """Refuse to lose what runs of that version have left; also asked once the folder is locked."""
    if plan.resume:
        _check_newest(plan)
    elif plan.run in LEARNING:
        _check_new(plan)


def _check_flags(request: Request) -> None:
    """Refuse flags that do not belong to what --RUN asks for."""
    run = f"--RUN={request.run}"
    if request.run not in LEARNING and (request.resume or request.keep_all):
        raise ConfigError(f"--RESUME and --KEEP_ALL belong to --RUN=train and --RUN=search, not to {run}")
    if request.run != "search":
        for key in request.overrides:
            if key.startswith("search."):
                raise ConfigError(f"{request.flags.get(key, key)} belongs to --RUN=search, not to {run}")
        return
    if request.geno_path is not None or request.geno_epoch is not None:
        raise ConfigError(f"{run} finds a genotype: leave out --GENO_PATH and --GENO_EPOCH")
    if request.checkpoint is not None and not request.resume:
        raise ConfigError(f"{run} starts anew, or goes on with --RESUME: leave out --CKPT_PATH")
    if request.overrides.get("training.compile"):
        raise ConfigError(f"{run} runs another network in every step: leave out --COMPILE")


def _check_new(plan: Plan) -> None:
    """Refuse to write over what an earlier run of that version has left."""
    if checkpoints_in(plan.folder):
        raise ConfigError(
            f"{plan.folder} holds checkpoints of an earlier run: go on with --RESUME, or choose another --VERSION"
        )
    path = plan.config.files.genotypes
    if plan.run == "search" and path.exists():
        raise ConfigError(f"{path} exists: choose another --VERSION, whose genotypes will go into its own file")


def _check_newest(plan: Plan) -> None:
    """Refuse to go on from a checkpoint beside ones that an earlier run wrote after it."""
    assert isinstance(plan.checkpoint, Checkpoint)  # released weights are never resumed
    reached = (plan.checkpoint.epoch, plan.checkpoint.step)
    later = [path for path in checkpoints_in(plan.folder) if moment_of(path) > reached]
    if later:
        raise ConfigError(
            f"{plan.folder} holds checkpoints later than {plan.checkpoint_path}, such as {later[-1].name}: "
            "resume the newest, or give what follows another --VERSION"
        )


def _checkpoint_path(request: Request) -> Path | None:
    """Return the checkpoint a request means: --CKPT_PATH, else the newest of its version."""
    if request.checkpoint is not None:
        return Path(request.checkpoint)
    if request.run in LEARNING and not request.resume:
        return None
    if request.version is None:
        raise ConfigError(f"--RUN={request.run} needs a trained model: name its --VERSION or its --CKPT_PATH")
    logs = {**read_overrides(request.file), **request.overrides}.get("paths.logs", PathsConfig.logs)
    folder = RunPaths(logs, request.version).checkpoints
    found = checkpoints_in(folder)
    if not found:
        raise CheckpointError(
            f"no checkpoint in {folder}: train --VERSION={request.version} first, or give --CKPT_PATH"
        )
    return found[-1]


def _from_flags(task: type[Task], request: Request, checkpoint: Path | None) -> tuple[Config, Genotype]:
    version = request.default_version if checkpoint is None or request.run == "train" else checkpoint.stem
    size = request.size or default_size(request.run)
    if request.run == "search":
        config = _configuration(task, request, size, "train", version)
        return config, space_of(config)
    path = request.geno_path or f"train_{task.name}"
    config = _configuration(task, request, size, task.splits[0], version)
    return config, read_genotype(path, request.geno_epoch)


def _configuration(task: type[Task], request: Request, size: str, split: str, version: str) -> Config:
    """Return what YAML and flags say; `split` and `version` hold where they say nothing."""
    config = load_config(
        task.name,
        size,
        split=request.split or split,
        version=request.version or version,
        overrides=request.overrides,
        file=request.file,
    )
    return task.settle(config)


def _from_checkpoint(
    task: type[Task], request: Request, checkpoint: Checkpoint, path: Path
) -> tuple[Config, Genotype]:
    trained, genotype = settings_of(path, checkpoint)
    if trained.task != task.name:
        raise CheckpointError(f"{path} is of the task {trained.task}: use train_{trained.task}.py")
    if bool(checkpoint.search) != (request.run == "search"):
        raise CheckpointError(_of_another_run(trained, checkpoint, path))
    _check_genotype(request, genotype, path)
    if request.size not in (None, trained.size):
        _contradiction("--MODEL", request.size, trained.size, path)
    asked = _overlaid(trained, request)
    tuning = request.run == "train" and not request.resume
    fixed = ("model", "data") if tuning else ("model", "data", "training", "search")
    for key, flag in _keys(request).items():
        part, name = key.split(".", 1)
        given, held = (getattr(getattr(config, part), name) for config in (asked, trained))
        if part in fixed and not key.startswith(_free_keys(request)) and given != held:
            _contradiction(flag, given, held, path)
    if tuning:
        today = _configuration(task, request, trained.size, task.splits[0], request.default_version)
        return dataclasses.replace(today, model=trained.model, data=trained.data), genotype
    if request.split not in (None, trained.split):
        _contradiction("--SPLIT", request.split, trained.split, path)
    return task.settle(asked), genotype


def _of_another_run(trained: Config, checkpoint: Checkpoint, path: Path) -> str:
    if not checkpoint.search:
        return f"{path} is of a training run, which --RUN=search cannot go on with"
    found = trained.files.genotypes
    return f"{path} is of a search: go on by --RUN=search, or train what it found, --GENO_PATH={found}"


def _keys(request: Request) -> dict[str, str]:
    """Return the configuration keys that a request sets, each with what set it."""
    keys = {key: f"--CFG {key}" for key in read_overrides(request.file)}
    return {**keys, **{key: request.flags.get(key, key) for key in request.overrides}}


def _free_keys(request: Request) -> tuple[str, ...]:
    return (*FREE_KEYS, "training.epochs", "search.patience") if request.resume else FREE_KEYS


def _overlaid(trained: Config, request: Request) -> Config:
    """Lay all that a request sets over a checkpoint's configuration."""
    values = trained.to_dict()
    for key, value in {**read_overrides(request.file), **request.overrides}.items():
        part, name = key.split(".", 1)
        values[part][name] = value
    return Config.from_dict({**values, "version": request.version or trained.version})


def _check_genotype(request: Request, genotype: Genotype, path: Path) -> None:
    if request.geno_path is not None and read_genotype(request.geno_path, request.geno_epoch) != genotype:
        raise CheckpointError(
            f"--GENO_PATH={request.geno_path} contradicts {path}, which holds its own genotype: leave the flag out"
        )


def _contradiction(flag: str, given: Any, held: Any, path: Path) -> None:
    raise CheckpointError(
        f"{flag}={given} contradicts {path}, which was trained with {held}: leave the flag out, or train anew"
    )
