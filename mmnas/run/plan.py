"""What a command line asks for, settled once, before any process starts.

A run's settings come from the YAML and the flags, or from a checkpoint. Evaluation and resuming take
model, genotype and vocabularies from the checkpoint; a flag that says otherwise is an error.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from mmnas.config import Config, PathsConfig, load_config, overlaid, read_overrides
from mmnas.engine.checkpoint import (
    Checkpoint,
    CheckpointFile,
    PublishedWeights,
    checkpoints_in,
    moment_of,
    open_checkpoint,
    settings_of,
)
from mmnas.errors import CheckpointError, ConfigError
from mmnas.genotype import Genotype, read_genotype
from mmnas.paths import RunPaths
from mmnas.run.flags import Request, default_genotype
from mmnas.search.supernet import space_of
from mmnas.tasks.base import Task

# The values of --RUN that start from flags, learn, and may be resumed.
LEARNING = ("train", "search")
# What may differ from the checkpoint without changing what it computes; resuming may also go further.
FREE_KEYS = ("paths.", "training.workers", "training.eval_batch_size", "training.compile")
FREE_WHEN_RESUMING = ("training.epochs", "search.patience")


@dataclass(frozen=True)
class Plan:
    """Everything a run needs to know; other processes receive it with the open file of its checkpoint."""

    run: str
    config: Config
    genotype: Genotype
    source: CheckpointFile | None = None
    resume: bool = False
    keep_all: bool = False

    @property
    def checkpoint(self) -> Checkpoint | PublishedWeights | None:
        """What the run starts from."""
        return self.source.content if self.source else None

    @property
    def checkpoint_path(self) -> Path | None:
        """The file that it was read from."""
        return self.source.path if self.source else None

    @property
    def folder(self) -> Path:
        """Where the run's checkpoints lie."""
        return self.config.files.checkpoints


def default_size(run: str) -> str:
    """Return the size of the network when --MODEL is left out."""
    return "search" if run == "search" else "small"


def make_plan(task: type[Task], request: Request) -> Plan:
    """Settle a request. Raises `ConfigError` or `CheckpointError`, before anything is written."""
    _check_flags(request)
    request = _with_file(request)
    path = _checkpoint_path(request)
    source = None if path is None else open_checkpoint(path)
    if source and isinstance(source.content, Checkpoint):
        config, genotype = _from_checkpoint(task, request, source.content, source.path)
    else:
        if source and request.resume:
            raise CheckpointError(
                f"{path} holds released weights, nothing to resume: leave out --RESUME to fine-tune"
            )
        config, genotype = _from_flags(task, request, path)
    plan = Plan(request.run, config, genotype, source, request.resume, request.keep_all)
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
        raise ConfigError(f"{run} starts a new search, or continues one with --RESUME: leave out --CKPT_PATH")
    if request.overrides.get("training.compile"):
        raise ConfigError(f"{run} runs another network in every step: leave out --COMPILE")


def _with_file(request: Request) -> Request:
    """Read the `--CFG` file, the one time that this is done; flags override it."""
    settings = read_overrides(request.file)
    flags = {**{key: f"--CFG {key}" for key in settings}, **request.flags}
    return replace(request, file=None, overrides={**settings, **request.overrides}, flags=flags)


def _check_new(plan: Plan) -> None:
    """Refuse to write over what an earlier run of that version has left."""
    if checkpoints_in(plan.folder):
        raise ConfigError(
            f"{plan.folder} holds checkpoints of an earlier run: continue it with --RESUME, "
            "or choose another --VERSION"
        )
    path = plan.config.files.genotypes
    if plan.run == "search" and path.exists():
        raise ConfigError(f"{path} exists: choose another --VERSION, whose genotypes will go into its own file")


def _check_newest(plan: Plan) -> None:
    """Refuse to continue from a checkpoint beside ones that an earlier run wrote after it."""
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
    folder = RunPaths(request.overrides.get("paths.logs", PathsConfig().logs), request.version).checkpoints
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
    config = _configuration(task, request, size, task.splits[0], version)
    return config, read_genotype(request.geno_path or default_genotype(task), request.geno_epoch)


def _configuration(task: type[Task], request: Request, size: str, split: str, version: str) -> Config:
    """Return what YAML and flags say; `split` and `version` hold where they say nothing."""
    split, version = request.split or split, request.version or version
    return task.settle(load_config(task.name, size, split=split, version=version, overrides=request.overrides))


def _from_checkpoint(
    task: type[Task], request: Request, checkpoint: Checkpoint, path: Path
) -> tuple[Config, Genotype]:
    trained, genotype = settings_of(path, checkpoint)
    if trained.task != task.name:
        raise CheckpointError(f"{path} is of the task {trained.task}: use train_{trained.task}.py")
    if bool(checkpoint.search) != (request.run == "search"):
        raise CheckpointError(_of_another_run(trained, checkpoint, path))
    if request.geno_path is not None and read_genotype(request.geno_path, request.geno_epoch) != genotype:
        raise CheckpointError(
            f"--GENO_PATH={request.geno_path} contradicts {path}, which holds its own genotype: leave the flag out"
        )
    if request.size not in (None, trained.size):
        raise _contradiction("--MODEL", request.size, trained.size, path)
    names = {"version": request.version or trained.version}
    asked = Config.from_dict({**overlaid(trained.to_dict(), request.overrides), **names})
    tuning = request.run == "train" and not request.resume
    _check_fixed(task, request, asked, trained, path)
    if tuning:
        new = _configuration(task, request, trained.size, task.splits[0], request.default_version)
        return replace(new, model=trained.model, data=trained.data), genotype
    if request.split not in (None, trained.split):
        raise _contradiction("--SPLIT", request.split, trained.split, path)
    return task.settle(asked), genotype


def _check_fixed(task: type[Task], request: Request, asked: Config, trained: Config, path: Path) -> None:
    """Refuse what is set otherwise than a checkpoint has it and must not change."""
    free = (*FREE_KEYS, *task.free_keys, *(FREE_WHEN_RESUMING if request.resume else ()))
    if request.run == "train" and not request.resume:
        free = (*free, "training.", "search.")
    for key in request.overrides:
        part, name = key.split(".", 1)
        given, held = (getattr(getattr(config, part), name) for config in (asked, trained))
        if given != held and not key.startswith(free):
            raise _contradiction(request.flags.get(key, key), given, held, path)


def _of_another_run(trained: Config, checkpoint: Checkpoint, path: Path) -> str:
    if not checkpoint.search:
        return f"{path} is of a training run, which --RUN=search cannot continue"
    found = trained.files.genotypes
    return f"{path} is of a search: continue it with --RUN=search, or train what it found, --GENO_PATH={found}"


def _contradiction(flag: str, given: Any, held: Any, path: Path) -> CheckpointError:
    return CheckpointError(
        f"{flag}={given} contradicts {path}, which was trained with {held}: leave the flag out, or start a new run"
    )
